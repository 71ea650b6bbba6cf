"""Attention of packed rows, in which sequences that begin alike share places."""
