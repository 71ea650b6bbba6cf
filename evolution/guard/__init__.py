"""The guard: notices when agents unlearn while their rewards rise, and can say no."""
