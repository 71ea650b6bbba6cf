"""OpenAI-compatible chat servers."""
