"""Accuracy on problems with known answers, and statistics of it."""
