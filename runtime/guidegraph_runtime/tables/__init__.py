"""Solvers as tables, in float64 NumPy: each function turns a list of noise levels into rows."""
