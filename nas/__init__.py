"""Train a supernet, search its sparse architectures, build the winners and prove them on the device."""
