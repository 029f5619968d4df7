"""The decoder's shape, read from a Hugging Face ``config.json``."""

from dataclasses import dataclass

from cann_jax.errors import InputError
from cann_jax.models.rope import Rope

# Fields of a Llama configuration that change the mathematics, with the only value implemented.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


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
    def from_hf(cls, config: dict) -> "DecoderConfig":
        """Translate a ``config.json``.

        Raises:
            InputError: another architecture, a missing field, or a field whose value is not implemented.
        """
        _require_llama(config)
        try:
            heads = config["num_attention_heads"]
            head_dim = config.get("head_dim") or config["hidden_size"] // heads
            return cls(
                vocabulary=config["vocab_size"],
                hidden=config["hidden_size"],
                intermediate=config["intermediate_size"],
                layers=config["num_hidden_layers"],
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=head_dim,
                norm_epsilon=config["rms_norm_eps"],
                rope=Rope.from_hf(config, head_dim),
                tied=bool(config.get("tie_word_embeddings", False)),
                max_positions=config["max_position_embeddings"],
            )
        except KeyError as missing:
            raise InputError(f"config.json lacks {missing}; take the file that belongs to the weights") from missing

    def to_hf(self) -> dict:
        """The ``config.json`` that ``AutoModelForCausalLM`` reads."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_positions,
            **_FIXED,
            **self.rope.to_hf(),
        }


def _require_llama(config: dict) -> None:
    kind = config.get("model_type")
    if kind != "llama":
        raise InputError(f"config.json: model_type {kind!r} is not supported; supported is 'llama'")
    for key, only in _FIXED.items():
        if config.get(key, only) != only:
            raise InputError(f"config.json: {key} {config[key]!r} is not supported; supported is {only!r}")
