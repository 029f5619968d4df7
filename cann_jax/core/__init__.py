"""Pure functions over arrays: the dual problem, its solution, and the preference step it leads to."""
