"""The equations of the objective as pure functions."""
