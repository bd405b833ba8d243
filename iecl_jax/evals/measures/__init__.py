"""Measures of features and networks, pure functions that know of no run: what evaluations share."""
