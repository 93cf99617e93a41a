"""How far a supernet's inherited perplexities can be trusted, and what its subnets cost to evaluate."""
