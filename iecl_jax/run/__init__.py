"""What a run leaves and survives: its files, checkpoints, metrics, signals and processes."""
