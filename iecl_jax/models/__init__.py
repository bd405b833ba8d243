"""The networks, as Flax modules: encoders, SAIB, and the MLP of projectors and predictors."""
