"""`populora doctor`."""
