"""Structure-aware Bayesian optimization of discrete and mixed spaces: the sampler ``auto``.  NumPy and SciPy only.

features.py   parameters as columns; families of parameters that are alike; a counter that switches layers off
kernel.py     prior covariance: shared and own effects, their pairwise products, and a smooth remainder
belief.py     what is believed of one quantity: hyperparameters, scale and structure by marginal likelihood, exact posterior
improvement.py expected hypervolume improvement in closed form, one to four objectives
inner_search.py a vectorized evolutionary search and neighbor moves over the space
sampler.py    the Optuna face
"""
