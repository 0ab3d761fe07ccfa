"""Mask and Keypoint R-CNN with non-local and global context blocks."""
