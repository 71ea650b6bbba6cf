"""`populora bench`."""
