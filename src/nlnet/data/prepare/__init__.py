"""From a folder of videos or images to shards."""
