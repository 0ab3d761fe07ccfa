"""What files may say: which classes they may name, and which settings they may hold."""
