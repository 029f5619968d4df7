"""Training of policies and score models: one sharded step and one loop."""
