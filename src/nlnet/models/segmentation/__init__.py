"""Networks that give every pixel a class: residual networks of output stride 8, and heads that look at all of a map."""
