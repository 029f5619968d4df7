"""Language models and score models: the decoder, its families, files, adapters and exports."""
