"""BoTorch as its tutorials assemble it, beside the samplers built on its models."""
