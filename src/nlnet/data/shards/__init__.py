"""Samples in tar files: written, described by a manifest, found, and read from anywhere."""
