"""The algorithms that lower to a matrix and multiply it by SciPy's BLAS."""
