"""Tiny random models and a tokenizer, written by transformers as Hugging Face folders."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, END, USER, ASSISTANT = "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (BOS, END, "<|system|>", USER, ASSISTANT)
# Says BOS itself, as the tokenizer does too: ids built carelessly then hold two.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCES = (
    "How do I make a simple tomato soup without cream?",
    "Write a short note to thank a neighbour for watering the plants.",
    "Tell my coworker what you think of his cooking.",
)
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "bos_token_id": SPECIAL.index(BOS),
    "eos_token_id": SPECIAL.index(END),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 300 tokens that adds one BOS, and whose padding is its end token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    backend.train_from_iterator(SENTENCES * 4, trainer)
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=END, pad_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_torch(seed: int = 0, **changes):
    """A random torch Llama; norm scales are random too, else a lost one would go unseen."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{"vocab_size": len(tiny_tokenizer()), **SHAPE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def save_tiny(folder: Path, *, max_shard_size: str = "5GB", seed: int = 0, **changes) -> Path:
    """Save ``tiny_torch`` and ``tiny_tokenizer`` into ``folder``.

    Args:
        folder: Where to.
        max_shard_size: As ``save_pretrained``; a small one gives many shards with an index.
        seed: Of the weights.
        changes: Fields of the configuration other than ``SHAPE``.
    """
    tiny_torch(seed, **changes).save_pretrained(folder, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def language_model(folder: Path, dtype: str = "float32") -> Any:
    """Load a folder's model, ready to sample and to score."""
    from cann_jax.models.files.load import load_decoder
    from cann_jax.models.files.model_files import open_model
    from cann_jax.models.language_model import LanguageModel

    files = open_model(str(folder))
    return LanguageModel.of(load_decoder(files, dtype), files)
