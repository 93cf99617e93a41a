"""Sparse products against the fastest dense product of the same shape."""
