"""From files on disk to batches: shards are written and indexed here, read, decoded and augmented."""
