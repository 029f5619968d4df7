"""Solvers of the dual problem: L-BFGS-B and projected Newton, on a table, blocks, many lanes or a stream."""
