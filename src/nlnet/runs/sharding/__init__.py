"""Training with weights, gradients and optimizer states spread over the ranks (`trainer=fsdp`)."""
