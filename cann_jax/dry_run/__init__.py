"""What a person sees before a run."""
