"""A run on disk: its files, checkpoints, changes and branches."""
