"""Pictures of what an evaluation measured."""
