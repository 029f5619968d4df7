"""Reading models from Hugging Face folders, GGUF files, pickles and the Hub."""
