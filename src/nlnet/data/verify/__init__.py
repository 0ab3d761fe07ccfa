"""Shards held against their manifests."""
