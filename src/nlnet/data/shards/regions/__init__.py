"""Regions of the frames of a split's videos: as they are stored beside the shards, or as a user gives them."""
