"""`populora play`."""
