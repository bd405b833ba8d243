"""Draws what the evaluations and diagnostics measure."""
