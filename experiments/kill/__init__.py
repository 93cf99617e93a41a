"""A run killed at random moments loses nothing and ends where an uninterrupted one ends."""
