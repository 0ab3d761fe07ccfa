"""From shards to batches: the order, the sampling, the decoding, the augmentation."""
