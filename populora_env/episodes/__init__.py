"""The inside of an episode: pairing, labels, rewards, settlement, how it is shown."""
