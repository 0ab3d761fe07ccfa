"""The samples of a manifest as columns: a few arrays instead of millions of objects."""
