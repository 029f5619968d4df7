"""The part of the schema that describes scorers; ``cann_jax.config`` holds the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cann_jax.config.schema import SchemaError, dotted, from_mapping, nearest

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Probe:
    """Two responses whose order a scorer must get right when it loads.

    Args:
        prompt: The prompt of both responses.
        better: The response that must score higher.
        worse: The response that must score lower.
    """

    prompt: str
    better: str
    worse: str


@dataclass(frozen=True)
class RelevanceScorer:
    """log π_ref(y|x) − log π_ref(y|neutral prompt), nats; higher is better.

    Args:
        neutral_prompt: The prompt that stands for "no particular question".
        per_token: Divide by the number of response tokens.
    """

    neutral_prompt: str = "Say something."
    per_token: bool = True


@dataclass(frozen=True)
class InoffensiveScorer:
    """Log-odds of "not offensive" by alt-profanity-check; higher is better.

    Args:
        clip: Probabilities are clipped to [clip, 1 − clip] and the clips counted.
        probe: A pair checked at load.
    """

    clip: float = 1e-6
    probe: Probe | None = None


@dataclass(frozen=True)
class ColumnScorer:
    """Scores that already exist: a table with ``prompt_id``, ``response`` and the score.

    Args:
        path: Parquet, CSV or JSON-lines file.
        column: The column that holds the score.
        better: Which way is better.
    """

    path: str
    column: str
    better: Better


@dataclass(frozen=True)
class FunctionScorer:
    """A Python function over lists of prompts and responses that returns one number each.

    Args:
        function: ``package.module:name``.
        better: Which way is better.
        probe: A pair checked at load.
    """

    function: str
    better: Better
    probe: Probe | None = None


@dataclass(frozen=True)
class Prealigned:
    """A model that leans to one side; exactly one of the four sources.

    Args:
        system_prompt: The reference itself under this system message; needs no training.
        preference: The reference with an adapter that the run trains by DPO on this label of ``preferences``.
        adapter: The reference with this adapter: a folder in PEFT's format.
        model: Another model of the same tokenizer, as in ``model.path``.
        revision: Of a model on the Hub.
    """

    system_prompt: str | None = None
    preference: Literal["better", "safer"] | None = None
    adapter: str | None = None
    model: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ImplicitScorer:
    """β·(log π_other(y|x) − log π_ref(y|x)), nats, of a pre-aligned π_other (PeCAN); higher is better.

    Args:
        beta: β with which π_other was, or is to be, pre-aligned; it fixes the score's unit.
        prealigned: Where π_other comes from.
    """

    beta: float
    prealigned: Prealigned


@dataclass(frozen=True)
class RewardModelScorer:
    """A reward or cost model: its score head at the last token of prompt and response.

    Args:
        path: A folder in the layout of Safe-RLHF (``score_head``) or of Hugging Face's
            ``…ForSequenceClassification`` with one label (``score``), or ``owner/name`` on the Hub.
        better: Which way is better: ``lower`` for a cost.
        template: ``chat`` for its tokenizer's chat template, or a text that holds ``{prompt}``; the response
            follows.
        next_turn: As in prompts: what follows for a further turn of a dialogue.
        system: System message of the chat template; null leaves the template's default.
        end: The token behind the response: ``auto`` is the tokenizer's end token behind a text template and
            nothing behind a chat template, which ends by itself; ``none``; or a token's text.
        revision: Of a model on the Hub.
        dtype: Dtype of matrix products, set apart from the run's.
        batch: Texts scored at once.
        probe: A pair checked at load.
    """

    path: str
    better: Better
    template: str = "chat"
    next_turn: str | None = None
    system: str | None = None
    end: str = "auto"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch: int = 8
    probe: Probe | None = None


@dataclass(frozen=True)
class JudgeScorer:
    """Log-odds of the better over the worse answer to a question about prompt and response, nats.

    Args:
        template: The question: ``helpful_v1``, ``polite_v1``, ``safe_v1``, ``guard_v1``, or a .yaml file of
            your own.
        path: The model that is asked; null asks the run's reference.
        revision: Of a model on the Hub.
        dtype: Dtype of that model's matrix products; the reference keeps its own.
        probe: A pair checked at load.
    """

    template: str
    path: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    probe: Probe | None = None


SCORER_KINDS: dict[str, type] = {
    "relevance": RelevanceScorer,
    "inoffensive": InoffensiveScorer,
    "column": ColumnScorer,
    "function": FunctionScorer,
    "implicit": ImplicitScorer,
    "reward_model": RewardModelScorer,
    "judge": JudgeScorer,
}


def scorer_from_dict(values: Mapping[str, Any], key: str) -> Any:
    """The configuration of one scorer: ``kind`` picks the dataclass, the other keys fill it.

    Args:
        values: ``kind`` and that kind's keys.
        key: Dotted key of ``values``, for messages.

    Raises:
        SchemaError: An unknown kind or key (names the nearest valid one), a missing key or a wrong type.
    """
    kinds = ", ".join(SCORER_KINDS)
    if "kind" not in values:
        raise SchemaError(dotted(key, "kind"), f"is missing; it must be one of {kinds}")
    kind = values["kind"]
    if kind not in list(SCORER_KINDS):  # a list, because what was given may not be hashable
        near = nearest(str(kind), SCORER_KINDS)
        raise SchemaError(dotted(key, "kind"), f"is {kind!r}; did you mean {near}? It must be one of {kinds}")
    return from_mapping(SCORER_KINDS[kind], {n: v for n, v in values.items() if n != "kind"}, key)
