"""The decoder's shape, read from a Hugging Face ``config.json``."""

from dataclasses import dataclass

from cann_jax.errors import InputError
from cann_jax.models.rope import Rope

# Fields of a Llama configuration that change the mathematics, with the only value implemented.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None}
_SIZES = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
}


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of the Llama architecture.

    Args:
        vocabulary: Rows of the embedding.
        hidden: Width of the residual stream.
        intermediate: Width of the gated MLP.
        layers: Blocks.
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_dim: Size of a head.
        norm_epsilon: Added to the mean square in RMSNorm.
        rope: Position embedding.
        tied: The output head is the transposed embedding.
        max_positions: Longest sequence the model was made for.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope: Rope
    tied: bool
    max_positions: int

    @classmethod
    def from_hf(cls, config: dict, source: str) -> "DecoderConfig":
        """Translate a ``config.json``.

        Args:
            config: Its content.
            source: What to call it in an error.

        Raises:
            InputError: another architecture, a missing or impossible field, or a value not implemented.
        """
        _require_llama(config, source)
        sizes = {field: _size(config, key, source) for field, key in _SIZES.items()}
        heads = sizes["heads"]
        kv_heads = _size(config, "num_key_value_heads", source, heads)
        head_dim = _size(config, "head_dim", source, sizes["hidden"] // heads)
        if heads % kv_heads or head_dim % 2:
            raise InputError(
                f"{source}: {heads} heads, {kv_heads} key-value heads and head size {head_dim} do not fit; "
                "take the file that belongs to the weights"
            )
        return cls(
            **sizes,
            kv_heads=kv_heads,
            head_dim=head_dim,
            norm_epsilon=_number(config, "rms_norm_eps", source),
            rope=Rope.from_hf(config, head_dim, source),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    def to_hf(self) -> dict:
        """The ``config.json`` that ``AutoModelForCausalLM`` reads."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **{key: getattr(self, field) for field, key in _SIZES.items()},
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tied,
            **{key: only for key, only in _FIXED.items() if only is not None},
            **self.rope.to_hf(),
        }


def _require_llama(config: dict, source: str) -> None:
    kind = config.get("model_type")
    if kind != "llama":
        raise InputError(f"{source}: model_type {kind!r} is not supported; use a model of type 'llama'")
    for key, only in _FIXED.items():
        if config.get(key, only) != only:
            raise InputError(f"{source}: {key} {config[key]!r} is not supported; use a model with {only!r}")


def _number(config: dict, key: str, source: str, default=None):
    """A positive number; null counts as left out, as in transformers."""
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise InputError(f"{source} lacks {key!r}; take the file that belongs to the weights")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(
            f"{source}: {key} is {value!r}, no positive number; take the file that belongs to the weights"
        )
    return value


def _size(config: dict, key: str, source: str, default: int | None = None) -> int:
    value = _number(config, key, source, default)
    if not isinstance(value, int):
        raise InputError(
            f"{source}: {key} is {value!r}, no whole number; take the file that belongs to the weights"
        )
    return value
