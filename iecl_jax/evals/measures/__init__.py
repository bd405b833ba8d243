"""Functions that measure features and networks. They know nothing of runs or configs."""
