"""The run folder on disk, its records and checkpoints. Never imports torch."""
