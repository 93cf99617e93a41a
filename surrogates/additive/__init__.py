"""A surrogate for any metric of a search space: effects of parts and layers add up, and what they leave is noise to be calibrated."""
