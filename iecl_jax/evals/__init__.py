"""Evaluations of frozen features: kNN, linear probes, and a table that compares representations."""
