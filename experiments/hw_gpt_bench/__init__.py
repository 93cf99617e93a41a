"""HW-GPT-Bench (2405.10299): how good surrogates from few measurements are, and the baselines' searches on them."""
