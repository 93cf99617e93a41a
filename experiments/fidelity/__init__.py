"""Tokens saved by growing fidelity."""
