"""Several processes that answer and learn for one population, on Ray."""
