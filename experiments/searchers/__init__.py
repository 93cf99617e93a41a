"""Searchers judged: methods x problems x seeds, by the hypervolume they reach and the seconds that a suggestion takes."""
