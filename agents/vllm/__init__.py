"""Replies from a vLLM server that loads adapters while it runs."""
