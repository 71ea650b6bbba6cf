"""`populora evolve`."""
