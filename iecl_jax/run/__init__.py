"""The files of a run (workdir, checkpoints, metrics), and how it handles signals and processes."""
