"""What the files of a run's folder are called that others read."""

RECORD, CONFIG, METRICS = "summary.json", "config.yaml", "metrics.csv"
