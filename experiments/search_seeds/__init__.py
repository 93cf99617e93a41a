"""Samplers on the whole tiny space, seed by seed, at the budget of the default run."""
