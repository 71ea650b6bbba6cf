"""What a machine has, and what this process may take of it."""
