"""Flax modules: SAIB, the spectral-normalised ResNet, and the MLP of projectors and predictors."""
