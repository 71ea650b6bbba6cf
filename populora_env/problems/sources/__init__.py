"""What a source of problems is, and the language of its specs."""
