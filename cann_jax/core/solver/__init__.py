"""Solvers of the dual problem: L-BFGS-B and projected Newton, on one table, many lanes or a stream."""
