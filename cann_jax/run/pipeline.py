"""The pipeline of a run, as data: which stages there are, in which order, and what each reads and writes.

``--stages``, skipping, freshness, the dry run's plan, the report's links and docs/pipeline.md all follow from
these tables. A stage's function is ``run`` in ``cann_jax/stages/NAME.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cann_jax.config.export import FORMATS
from cann_jax.config.model import PREFERENCES


@dataclass(frozen=True)
class When:
    """A condition on the configuration, in words and as a function."""

    words: str
    holds: Callable[[Any], bool]


def both(first: When, second: When) -> When:
    """Return the condition that both hold."""
    return When(f"{first.words} and {second.words}", lambda c: first.holds(c) and second.holds(c))


ALWAYS = When("", lambda config: True)
PAIRS = When("there is a section `preferences`", lambda c: c.preferences is not None)
PREALIGNED = When("an implicit scorer has `prealigned.preference`", lambda c: bool(c.to_prealign()))
TRAINED = When("`evaluate.policy` is aligned", lambda c: c.trains)
STEP = When("`align.combination` is sum or sequence", lambda c: c.align.combination != "soup")
EXPERTS = both(
    When("`align.combination` is sequence or soup, or `align.dial` true", lambda c: bool(c.experts())),
    TRAINED,
)
DIAL = both(When("`align.dial` is true", lambda c: c.align.dial), TRAINED)
ONE_STEP = both(TRAINED, When("`align.dial` is false", lambda c: not c.align.dial))
DENOISED = When("`align.labels` is denoised", lambda c: c.align.labels == "denoised")
SCORED_PAIRS = both(
    When(
        "`align.pairs` is dataset and `align.preference` pseudo_reward",
        lambda c: not c.align.supervision.from_samples and c.align.supervision.label is None,
    ),
    TRAINED,
)
CALIBRATED = both(When("`prompts.calibration` is set", lambda c: c.calibrated), TRAINED)
ROUNDS = both(When("`rounds` is 2 or more", lambda c: c.rounds > 1), TRAINED)
TRAIN_FROM_PAIRS = When("`prompts.train` is preferences", lambda c: c.prompts.train == PREFERENCES)
HELDOUT_FROM_PAIRS = When("`prompts.heldout` is preferences", lambda c: c.prompts.heldout == PREFERENCES)
ON_SAMPLES = When("`align.pairs` is samples", lambda c: c.align.supervision.from_samples)
ON_PAIRS = When("`align.pairs` is dataset", lambda c: not c.align.supervision.from_samples)
BY_R_LAMBDA = When("`align.preference` is pseudo_reward", lambda c: c.align.supervision.label is None)
EXPORTED = both(When("`export` is not empty", lambda c: bool(c.export)), TRAINED)
FEATURES = When("`sample.feature_layers` is not empty", lambda c: c.sample.feature_layers != ())


def exported(name: str) -> When:
    """Return the condition that a format is exported."""
    return When(f"`export` has {name}", lambda c: name in c.export)


def always(*names: str) -> dict[str, When]:
    """Return the names, each without a condition."""
    return dict.fromkeys(names, ALWAYS)


@dataclass(frozen=True)
class Stage:
    """A row of a pipeline.

    Args:
        name: Its name, and its folder below the run's.
        question: The question that it answers.
        settings: Keys of the configuration that it reads, sections whole; ``*`` is any name.
        files: Files from outside that it reads, by their name in ``run/inputs.py``.
        reads: Stages whose outputs it reads, and when.
        writes: Its outputs, and when; ``*`` is anything.
        when: When a run has the stage.
        parts: Names of folders in its own that have commits of their own, each made anew by itself; ``*`` is
            anything.
        verifies: The content of everything that it reads is hashed first, whatever sizes and times say.
        only: Of stages that it reads, patterns of the outputs that matter to it, where not all do.
    """

    name: str
    question: str
    settings: tuple[str, ...]
    files: tuple[str, ...]
    reads: Mapping[str, When]
    writes: Mapping[str, When]
    when: When = field(default=ALWAYS)
    parts: tuple[str, ...] = ()
    verifies: bool = False
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# These change no result; the report, which is written each time, shows the examples.
NO_RESULT = (
    *("name", "run_dir", "mesh", "distributed", "metrics", "on_step", "evaluate.examples"),
    *("sample.allow_changed_reference", "sample.prompts_per_batch", "sample.slots"),
)
# Where files lie is not a setting either: what they hold is an input.
NO_SETTINGS = (
    *NO_RESULT,
    *("model.path", "model.revision", "model.adapter", "preferences.path", "preferences.prepared"),
    *("prompts.train", "prompts.calibration", "prompts.heldout"),
)
SCORERS = ("reward.scorer", "constraints.*.scorer")
GOALS = ("margin", "at_least", "max_unsafe", "unsafe_below", "group", "clip")
TARGETS = tuple(f"constraints.*.{name}" for name in GOALS)
# What g is made of; how much of it is asked for changes no label.
VALUES = tuple(f"constraints.*.{name}" for name in GOALS if name not in ("margin", "at_least"))
PREALIGNED_BY = tuple(
    f"{scorer}.{name}"
    for scorer in (*SCORERS, "evaluate.also.*")
    for name in ("kind", "beta", "prealigned.preference")
)
TEMPLATE = ("template", "next_turn", "system", "date")

# fmt: off
PIPELINE = (
    Stage("pairs", "Which responses did people prefer?", when=PAIRS,
          settings=("preferences", *(f"prompts.{name}" for name in TEMPLATE)),
          files=("tokenizer", "preferences"), reads={},
          writes=always("train.parquet", "heldout.parquet", "contradictory.jsonl")),
    Stage("prealign", "Which models speak for each preference (PeCAN)?", when=PREALIGNED, parts=("*",),
          settings=("model", "prealign", "seed", *PREALIGNED_BY), files=("model",),
          reads=always("pairs"), writes=always("*/adapter/*")),
    Stage("sample", "What would the reference say?",
          settings=("model", "prompts", "sample", "seed"), files=("model", "prompts.train"),
          reads={"pairs": TRAIN_FROM_PAIRS},
          writes=always("responses-*.parquet") | {"features-*.npy": FEATURES}),
    Stage("score", "How good is each response, by each score?",
          settings=("model", "prompts", "sample", "seed", *SCORERS), files=("model", "scorers"),
          reads={"sample": ALWAYS, "prealign": PREALIGNED}, writes=always("scores.parquet")),
    Stage("dual", "Which λ; can the margins be reached on the sample, and by what the model can tell?",
          settings=("dual", "seed", "evaluate.confidence", *TARGETS), files=(),
          reads={"score": ALWAYS, "sample": FEATURES},
          writes=always("dual.json", "curve.parquet", "dual.png") | {"predicted.parquet": FEATURES}),
    Stage("pair_scores", "How good are the responses that people compared?", when=SCORED_PAIRS,
          settings=("model", "prompts", "sample", "seed", *SCORERS), files=("model", "scorers"),
          reads={"pairs": ALWAYS, "prealign": PREALIGNED}, writes=always("scores.parquet")),
    Stage("experts", "What does a score teach by itself?", when=EXPERTS, parts=("*",),
          settings=("model", "align", "dual.beta", "sample.max_new_tokens", "seed", *VALUES),
          files=("model",),
          reads=always("sample", "score") | {"dual": DENOISED}, only={"dual": ("predicted.parquet",)},
          writes=always("*/weights/*", "*/metrics.jsonl", "*/health.json") | {"units.json": DIAL}),
    Stage("align", "What does one preference step with r_λ give?", when=ONE_STEP,
          settings=("model", "align", "dual.beta", "sample.max_new_tokens", "seed", *TARGETS),
          files=("model",),
          reads={"sample": ON_SAMPLES, "score": ON_SAMPLES, "pairs": ON_PAIRS, "pair_scores": SCORED_PAIRS,
                 "dual": BY_R_LAMBDA, "experts": EXPERTS},
          writes=always("weights/*") | {"metrics.jsonl": STEP, "health.json": STEP}),
    Stage("calibrate", "How far along the step: which scale meets the margins?", when=CALIBRATED,
          parts=("reference",),
          settings=("model", "prompts", "sample", "calibrate", "align.lora", "align.combination",
                    "align.dial", "seed", "evaluate.responses", "evaluate.confidence", *SCORERS, *TARGETS),
          files=("model", "prompts.calibration", "prompts.heldout", "measured scorers"),
          reads={"align": ONE_STEP, "experts": DIAL, "dual": DIAL, "prealign": PREALIGNED,
                 "pairs": HELDOUT_FROM_PAIRS},
          writes=always("scale.json")),
    Stage("rounds", "Where did the one shot fall short?", when=ROUNDS, parts=("[0-9][0-9]*",),
          settings=("model", "prompts", "sample", "align", "rounds", "online", "dual.beta", "seed",
                    *SCORERS, *TARGETS),
          files=("model", "prompts.train", "scorers"),
          reads=always("score", "dual", "align")
          | {"calibrate": CALIBRATED, "pairs": TRAIN_FROM_PAIRS, "prealign": PREALIGNED},
          writes=always("weights/*", "rounds.json")),
    Stage("evaluate", "Does it hold on prompts that nobody has used?", verifies=True,
          parts=("reference", "aligned*"),
          settings=("model", "prompts", "sample", "evaluate", "align.lora", "align.combination", "align.dial",
                    "align.safety_offset", "align.pairs", "align.preference", "align.loss",
                    "align.label_temperature", "align.label_smoothing", "rounds", "dual.beta", "seed",
                    *SCORERS, *TARGETS),
          files=("model", "prompts.heldout", "measured scorers"),
          reads=always("score", "dual")
          | {"align": ONE_STEP, "experts": DIAL, "calibrate": CALIBRATED, "rounds": ROUNDS,
             "prealign": PREALIGNED, "pairs": HELDOUT_FROM_PAIRS},
          writes=always("results.json", "reference.parquet", "aligned.parquet")),
    Stage("export", "What leaves the run, in the formats of others?", when=EXPORTED, verifies=True,
          settings=("*",), files=("model",),  # its card tells the whole configuration
          reads=always("dual", "evaluate")
          | {"align": ONE_STEP, "experts": DIAL, "calibrate": CALIBRATED, "rounds": ROUNDS},
          writes={f"{name}/*": exported(name) for name in FORMATS}),
)

# The pipeline of ``python -m cann_jax.reward``.
SCORE_MODEL_PIPELINE = (
    Stage("pairs", "Which responses did people prefer?",
          settings=("preferences", *TEMPLATE), files=("tokenizer", "preferences"), reads={},
          writes=always("train.parquet", "heldout.parquet", "contradictory.jsonl")),
    Stage("score_model", "How far can a model tell which response people prefer?",
          settings=("model", "objective", "dimension", "lora", "optimizer", "epochs", "pairs_per_step",
                    "accumulation", "regularization", "rematerialise", "checkpoint_every", "keep_checkpoints",
                    "confidence", "export", *TEMPLATE, "seed"),
          files=("model",), reads=always("pairs"),
          writes=always("weights/*", "metrics.jsonl", "results.json", "reliability.png", "model/*")),
)
# fmt: on
