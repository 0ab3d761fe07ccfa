"""What a trained network sees in videos and images."""
