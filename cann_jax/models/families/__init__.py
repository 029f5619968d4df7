"""Model families: one file for each Hugging Face ``model_type``, and the registry of all of them."""
