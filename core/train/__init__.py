"""Training: the loop, the losses, the optimizers, the process."""
