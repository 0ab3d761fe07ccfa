"""The web: requests to servers that are not trusted."""
