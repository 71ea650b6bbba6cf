"""One backward pass for all adapters: learners, advantages, objectives."""
