"""Compiled kernels that are not convolutions."""
