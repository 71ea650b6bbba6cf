"""`populora distill`."""
