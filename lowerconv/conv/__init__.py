"""Convolutions: what one is, how it is decided, and the loops that run it."""
