"""N adapters on one frozen base, decoded together."""
