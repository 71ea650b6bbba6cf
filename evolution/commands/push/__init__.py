"""``populora push``."""
