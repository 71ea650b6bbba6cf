"""Base models: found, checked, loaded and frozen."""
