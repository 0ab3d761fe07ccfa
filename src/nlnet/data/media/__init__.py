"""Encoded videos and images: opened within limits, decoded, encoded."""
