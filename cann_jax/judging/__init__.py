"""What an outside judge says of a run's two models: asked, kept on disk, and counted."""
