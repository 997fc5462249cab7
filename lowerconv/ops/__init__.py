"""Compiled kernels that are not convolutions.

They are called as ``kernel(team, ...)`` with what `runtime.threads.parallel_region` returns, on
whose threads they run; docstrings describe the other arguments.
"""
