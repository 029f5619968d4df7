"""LoRA adapters, and PEFT's file format for them."""
