"""Training: the loop, the step, the state and the optimizer."""
