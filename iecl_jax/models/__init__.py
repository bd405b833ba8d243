"""Flax modules: SAIB, the spectral-normalised ResNet, and the projector."""
