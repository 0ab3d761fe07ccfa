"""GPU kernels of the softmax pair."""
