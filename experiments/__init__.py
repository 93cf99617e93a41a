"""One module or folder per claim: recipe and seed in, ``results/<recipe>/<device>/<seed>/`` out; reports read files only."""
