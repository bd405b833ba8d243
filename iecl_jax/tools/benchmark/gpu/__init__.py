"""Measures everything that is worth knowing of one GPU, the most valuable first, in a budget."""
