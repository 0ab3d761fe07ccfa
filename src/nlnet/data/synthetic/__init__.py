"""The built-in data sets, made on first use."""
