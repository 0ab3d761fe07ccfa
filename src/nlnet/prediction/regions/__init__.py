"""Regions of videos: proposed and stored, drawn with what links them."""
