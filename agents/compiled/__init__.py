"""What is compiled for this processor: products, low-rank updates, a pass of the whole model."""
