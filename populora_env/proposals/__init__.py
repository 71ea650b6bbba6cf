"""Self-play: agents write the problems; what they may write, and who verifies it."""
