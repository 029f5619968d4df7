"""The shape of a decoder, read from and written to a Hugging Face ``config.json``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
from jax import Array

from cann_jax.files.errors import InputError, shown
from cann_jax.models.config_reader import REMEDY, ConfigReader
from cann_jax.models.families import FAMILIES
from cann_jax.models.families.family import Family, LayerKinds
from cann_jax.models.rope import Dynamic, LongRope

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}
_AFTER = {"post_attention_norm": "post_attention_layernorm", "post_mlp_norm": "post_feedforward_layernorm"}
# Norm of the decoder's block → its Hugging Face name, by where the block has norms.
NORMS = {
    "before": {"pre_attention_norm": "input_layernorm", "pre_mlp_norm": "post_attention_layernorm"},
    "after": _AFTER,
    "around": _AFTER | {"pre_attention_norm": "input_layernorm", "pre_mlp_norm": "pre_feedforward_layernorm"},
}
# Keys that would change the mathematics of any family, with the only value implemented.
ONLY_EVERYWHERE = {
    "quantization_config": None,
    "attention_dropout": 0,
    "rope_interleaved": False,
    "use_bidirectional_attention": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}
LAYERS = 1000
# What transformers takes for absent keys, in every family that has them.
_DEFAULTS = {"rope_theta": 10_000.0, "hidden_act": "silu"}
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
    """A decoder-only transformer with gated MLPs and RMSNorm."""

    family: str  # key of ``FAMILIES``, for names on disk
    vocabulary: int  # rows of the embedding
    hidden: int  # width of the residual stream
    intermediate: int  # width of the gated MLP
    layers: int
    heads: int
    kv_heads: int  # divides ``heads``
    head_dim: int
    norm_epsilon: float  # added to the mean square in RMSNorm
    kinds: LayerKinds  # RoPE and window of each layer
    tied: bool  # the output head is the transposed embedding
    max_positions: int  # longest sequence the model was made for
    activation: str = "silu"  # of the gate, a key of ``ACTIVATIONS``
    biases: tuple[str, ...] = ()  # linear layers with a bias
    norms: Literal["before", "after", "around"] = "before"  # where a block has norms of attention and MLP
    norm_offset: float = 0.0  # added to a norm's scale
    qk_norm: Literal["head", "projection"] | None = None  # norm of queries and keys: of each head, or of all
    scaled_embedding: bool = False  # embeddings are multiplied by √hidden
    query_scalar: float | None = None  # scores are divided by its square root; None for ``head_dim``
    attention_softcap: float | None = None  # c in c·tanh(score / c)
    final_softcap: float | None = None  # the same for logits

    @property
    def context(self) -> int:
        """Longest sequence that is sampled as it is scored.

        LongRoPE turns all of a sequence by other angles once it is longer than trained. Sampling keeps the
        keys from before, and log-probs of the whole were 5.6 nats a token away from its own.
        """
        scalings = (kind.rope.scaling for kind in self.kinds if kind.rope is not None)
        trained = (each.original_max_position_embeddings for each in scalings if isinstance(each, LongRope))
        return min([self.max_positions, *trained])

    @property
    def keeps_keys(self) -> bool:
        """Whether a token's key is the same however long its sequence becomes."""
        scalings = (kind.rope.scaling for kind in self.kinds if kind.rope is not None)
        return not any(isinstance(each, Dynamic | LongRope) for each in scalings)

    @property
    def attention_scale(self) -> float:
        """Factor of the attention scores."""
        return float((self.query_scalar or self.head_dim) ** -0.5)

    @classmethod
    def from_hf(cls, config: dict[str, Any], source: str) -> "DecoderConfig":
        """Translate the content of a ``config.json``; ``source`` is the name of the file in errors.

        Raises:
            InputError: The architecture or a value is not implemented, or a field is missing or impossible.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise InputError(
                f"{source}: model_type {shown(kind)} is not supported; use one of {', '.join(FAMILIES)}"
            )
        family = FAMILIES[kind]
        reader = ConfigReader({**_DEFAULTS, **family.defaults, **config}, source)
        _refuse_unsupported(reader, family)
        sizes: dict[str, Any] = {name: reader.size(key) for name, key in _SIZES.items()}
        if sizes["layers"] > LAYERS:  # of which a tuple is made
            raise reader.fault("num_hidden_layers", f"where {LAYERS} are the most that is supported")
        sizes |= _head_sizes(reader, sizes["hidden"], sizes["heads"])
        return cls(
            family=kind,
            **sizes,
            norm_epsilon=reader.number("rms_norm_eps"),
            kinds=family.kinds(reader, sizes["head_dim"], sizes["layers"]),
            tied=reader.flag("tie_word_embeddings"),
            **_family_fields(reader, family),
        )

    def to_hf(self) -> dict[str, Any]:
        """Return the ``config.json`` that ``AutoModelForCausalLM`` reads."""
        family = FAMILIES[self.family]
        return {
            "architectures": [family.architecture],
            "model_type": self.family,
            **{key: getattr(self, name) for name, key in _SIZES.items()},
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tied,
            **{key: getattr(self, name) for key, name in family.reads.items()},
            **{key: layers[-1] in self.biases for key, layers in family.biases.items()},
            **family.write_kinds(self.kinds),
        }


def _refuse_unsupported(reader: ConfigReader, family: Family) -> None:
    for key, only in {**ONLY_EVERYWHERE, **family.only}.items():
        value = reader.get(key)
        if value is not None and value != only:
            raise InputError(
                f"{reader.source}: {key} {shown(value)} is not supported; use a model with {only!r}"
            )


def _head_sizes(reader: ConfigReader, hidden: int, heads: int) -> dict[str, int]:
    kv_heads = reader.size("num_key_value_heads", heads)
    head_dim = reader.size("head_dim", hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{reader.source}: {heads} heads, {kv_heads} key-value heads and head size {head_dim} "
            f"do not fit together; {REMEDY}"
        )
    return {"kv_heads": kv_heads, "head_dim": head_dim}


def _family_fields(reader: ConfigReader, family: Family) -> dict[str, Any]:
    read = {}
    for key, name in family.reads.items():
        value = read[name] = reader.get(key)
        if name == "activation" and not (isinstance(value, str) and value in ACTIVATIONS):
            choices = f"use a model with one of {', '.join(ACTIVATIONS)}"
            raise InputError(f"{reader.source}: {key} {shown(value)} is not supported; {choices}")
        if name != "activation" and value is not None:
            reader.number(key)
    biased = [layer for key, layers in family.biases.items() if reader.flag(key) for layer in layers]
    return {**family.sets, **read, "biases": (*family.sets.get("biases", ()), *biased)}
