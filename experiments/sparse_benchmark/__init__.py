"""A benchmark of a sparse space: perplexity from our own supernet, time from our own kernels on this machine."""
