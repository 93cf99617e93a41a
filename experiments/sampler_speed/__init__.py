"""What a suggestion costs as a study grows; ``python -m experiments.sampler_speed``."""
