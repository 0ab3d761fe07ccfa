from nlnet.runs.callbacks.metrics_csv import MetricsCsv, read_rows, was_seen


def test_rows_survive_new_columns_and_a_cut_last_line(tmp_path):
    path = tmp_path / "metrics.csv"
    writer = MetricsCsv(path, 1)
    writer._rewrite([], extra=["step", "train/loss"])
    with path.open("a") as file:
        file.write("1,0.1\n2,0.30000000000000004\n3,0.")
    rows = read_rows(path)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train/loss"]) == 0.1 + 0.2
    writer._rewrite(rows, extra=["step", "train/loss", "val/mAP"])
    assert path.read_text().splitlines()[0] == "step,train/loss,val/mAP"
    assert read_rows(path)[0] == {"step": "1", "train/loss": "0.1", "val/mAP": ""}


def test_which_rows_a_checkpoint_has_seen():
    train, validation = {"step": "8", "train/loss": "1"}, {"step": "8", "train/loss": "", "val/mAP": "0.5"}
    assert was_seen(train, 8, validated=False)
    assert not was_seen(validation, 8, validated=False)
    assert was_seen(validation, 8, validated=True)
    assert not was_seen(train, 7, validated=True)
