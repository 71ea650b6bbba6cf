"""`populora export`."""
