"""The decoder's shape, read from a Hugging Face ``config.json``."""

from dataclasses import dataclass
from typing import Any, Literal

from cann_jax.files.errors import InputError
from cann_jax.models.config_reader import MEND, Fields
from cann_jax.models.families.family import EVERYWHERE, FAMILIES, Family, LayerKinds

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")
# What transformers takes for keys left out, in every family that has them.
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
    """A decoder-only transformer with gated MLPs and RMSNorm.

    Args:
        family: Key of ``FAMILIES``, for names on disk.
        vocabulary: Rows of the embedding.
        hidden: Width of the residual stream.
        intermediate: Width of the gated MLP.
        layers: Blocks.
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_dim: Size of a head.
        norm_epsilon: Added to the mean square in RMSNorm.
        kinds: Each layer's RoPE and window.
        tied: The output head is the transposed embedding.
        max_positions: Longest sequence the model was made for.
        activation: Of the gate.
        biases: Linear layers with a bias.
        norms: Where a block has norms: ``before`` attention and MLP, ``after`` them, or ``around``.
        norm_offset: Added to a norm's scale.
        qk_norm: Norm of queries and keys: of each ``head``, of the whole ``projection``, or none.
        scaled_embedding: Embeddings are multiplied by √hidden.
        query_scalar: Attention scores are divided by its square root; None for ``head_dim``.
        attention_softcap: c in c·tanh(score / c), or None.
        final_softcap: The same for logits.
    """

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    kinds: LayerKinds
    tied: bool
    max_positions: int
    activation: str = "silu"
    biases: tuple[str, ...] = ()
    norms: Literal["before", "after", "around"] = "before"
    norm_offset: float = 0.0
    qk_norm: Literal["head", "projection"] | None = None
    scaled_embedding: bool = False
    query_scalar: float | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None

    @property
    def attention_scale(self) -> float:
        return (self.query_scalar or self.head_dim) ** -0.5

    @classmethod
    def from_hf(cls, config: dict, source: str) -> "DecoderConfig":
        """Translate a ``config.json``.

        Args:
            config: Its content.
            source: What to call it in an error.

        Raises:
            InputError: another architecture, a missing or impossible field, or a value not implemented.
        """
        kind = config.get("model_type")
        family = FAMILIES.get(kind) if isinstance(kind, str) else None
        if family is None:
            raise InputError(
                f"{source}: model_type {kind!r} is not supported; use a model of one of {', '.join(FAMILIES)}"
            )
        fields = Fields({**_DEFAULTS, **family.defaults, **config}, source)
        _refuse(fields, family)
        sizes = {name: fields.size(key) for name, key in _SIZES.items()}
        kv_heads, head_dim = _head_sizes(fields, sizes["hidden"], sizes["heads"])
        return cls(
            family=kind,
            **sizes,
            kv_heads=kv_heads,
            head_dim=head_dim,
            norm_epsilon=fields.number("rms_norm_eps"),
            kinds=family.kinds(fields, head_dim, sizes["layers"]),
            tied=fields.flag("tie_word_embeddings"),
            **_family_fields(fields, family),
        )

    def to_hf(self) -> dict[str, Any]:
        """The ``config.json`` that ``AutoModelForCausalLM`` reads."""
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
            **family.write(self.kinds),
        }


def _refuse(fields: Fields, family: Family) -> None:
    for key, only in {**EVERYWHERE, **family.only}.items():
        value = fields.get(key)
        if value is not None and value != only:
            raise InputError(f"{fields.source}: {key} {value!r} is not supported; use a model with {only!r}")


def _head_sizes(fields: Fields, hidden: int, heads: int) -> tuple[int, int]:
    kv_heads = fields.size("num_key_value_heads", heads)
    head_dim = fields.size("head_dim", hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{fields.source}: {heads} heads, {kv_heads} key-value heads and head size {head_dim} "
            f"do not fit; {MEND}"
        )
    return kv_heads, head_dim


def _family_fields(fields: Fields, family: Family) -> dict[str, Any]:
    read = {name: fields.get(key) for key, name in family.reads.items()}
    if read["activation"] not in ACTIVATIONS:
        key = next(key for key, name in family.reads.items() if name == "activation")
        raise InputError(
            f"{fields.source}: {key} {read['activation']!r} is not supported; "
            f"use a model with one of {', '.join(ACTIVATIONS)}"
        )
    for key, name in family.reads.items():
        if name != "activation" and read[name] is not None:
            fields.number(key)
    biased = [layer for key, layers in family.biases.items() if fields.flag(key) for layer in layers]
    return {**family.sets, **read, "biases": (*family.sets.get("biases", ()), *biased)}
