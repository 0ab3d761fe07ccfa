"""What data sets say about their videos and images: a reader for each, and what every reader hands over."""
