"""The settings of a run: what they are, their checks, and how a config is loaded."""
