"""What a network keeps in memory while it is trained, and in which order; none of it changes what is computed."""
