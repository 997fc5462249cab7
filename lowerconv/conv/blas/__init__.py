"""The algorithms that lower to a matrix and multiply it by the library's GEMM."""
