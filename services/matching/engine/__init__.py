"""Matching as pure functions: who may be paired, how good a pair is, and the best round."""
