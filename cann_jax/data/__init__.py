"""Prompts, responses and preferences: read, encoded once, stored as Parquet."""
