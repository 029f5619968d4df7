"""Writing models as Hugging Face folders."""
