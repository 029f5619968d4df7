"""Settings of ``python -m cann_jax.judge``: who judges, what, and by which questions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from annotated_types import Interval

from cann_jax.config.mesh import MeshConfig
from cann_jax.config.model import Dtype
from cann_jax.config.ranges import Must, NonNegative, NonNegativeInt, Positive, PositiveInt, Probability, Text


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    bare = "@" not in parts.netloc and not parts.query and not parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bare


Address = Annotated[str, Must("an address of http or https, without user, password or query", _is_address)]


@dataclass(frozen=True, kw_only=True)
class JudgeModelConfig:
    """The model that judges: at an endpoint that speaks OpenAI's protocol, or read from files.

    Args:
        model: Name of a model at the endpoint ``base_url``.
        path: In its place a model read from files, as ``model.path`` of a run; it answers by its log-probs.
        revision: Of a model on the Hub, for ``path``.
        dtype: Dtype of that model's matrix products.
        base_url: The endpoint, for example ``http://localhost:8000/v1``.
        key_variable: Environment variable that holds the endpoint's key; servers of your own may need none.
        temperature: Of the answers; null sends none, for models that refuse it.
        answer_tokens: Most tokens of an answer; models that think before they answer need thousands.
        token_limit: The endpoint's name of that limit; OpenAI's thinking models know the longer one.
        timeout_seconds: Longest wait for an answer; it is asked for again then.
        retries: Times that a request is sent again, after a time-out, a rate limit or an error of the server.
        concurrency: Requests under way at once.
        budget_requests: Questions that one call of the command may send, retries not counted; null is no
            limit.
        budget_tokens: Tokens, read and written, after which one call sends no more; those under way still
            come in. Null is no limit.
    """

    model: Text | None = None
    path: Text | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    base_url: Address = "https://api.openai.com/v1"
    key_variable: Text = "OPENAI_API_KEY"
    temperature: NonNegative | None = 0.0
    answer_tokens: PositiveInt = 16
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    timeout_seconds: Positive = 60.0
    retries: NonNegativeInt = 5
    concurrency: Annotated[int, Interval(ge=1, le=256)] = 8
    budget_requests: PositiveInt | None = None
    budget_tokens: PositiveInt | None = None

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if self.model is None and self.path is None:
            yield "model", "is missing; name a model at judge.base_url, or give files by judge.path"
        if self.model is not None and self.path is not None:
            yield "path", "is set beside judge.model; leave one of them out"


@dataclass(frozen=True, kw_only=True)
class JudgedPromptsConfig:
    """The prompts whose responses are judged.

    Args:
        path: Prompts as JSON lines, to which both models are sampled by the run's own settings; null takes
            the responses that the run was evaluated on.
        category: Key of a line that names its category, by which shares are listed.
        set: Key of a line that names the set it belongs to, of which a question may choose one.
        on_overlap: What happens to a prompt that the run was trained or calibrated on.
        responses: Responses a prompt, of each model, at most as many as the run was evaluated on where
            ``path`` is null.
    """

    path: Text | None = None
    category: Text = "category"
    set: Text = "set"
    on_overlap: Literal["error", "drop"] = "error"
    responses: PositiveInt = 1


@dataclass(frozen=True, kw_only=True)
class QuestionConfig:
    """A question.

    Args:
        template: A shipped one by its name, or a .yaml file of your own.
        set: Ask about the prompts of this set only; null asks about all.
    """

    template: Text
    set: Text | None = None


@dataclass(frozen=True, kw_only=True)
class HelpfulnessConfig(QuestionConfig):
    """Which of two responses helps more, asked in both orders."""

    template: Text = "helpful_pair_v1"


@dataclass(frozen=True, kw_only=True)
class SafetyConfig(QuestionConfig):
    """Which of two responses is safer, asked in both orders."""

    template: Text = "safe_pair_v1"


@dataclass(frozen=True, kw_only=True)
class UnsafeConfig(QuestionConfig):
    """Whether a response is unsafe."""

    template: Text = "safe_v1"


@dataclass(frozen=True, kw_only=True)
class RefusalConfig(QuestionConfig):
    """Whether a response declines what was asked, of harmless prompts.

    Args:
        set: The set of prompts that are harmless.
    """

    template: Text = "answers_v1"
    set: Text


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """What an outside judge says of a finished run.

    Args:
        judge: The model that judges.
        prompts: The prompts whose responses are judged.
        helpfulness: Win rate by helpfulness; null leaves it out.
        safety: Win rate by safety; null leaves it out.
        unsafe: Share of unsafe responses; null leaves it out.
        refusal: Share of harmless prompts that are refused; null leaves it out.
        confidence: Level of every interval.
        mesh: Devices by axis, for sampling and for a judge read from files.
    """

    judge: JudgeModelConfig
    prompts: JudgedPromptsConfig = field(default_factory=JudgedPromptsConfig)
    helpfulness: HelpfulnessConfig | None = field(default_factory=HelpfulnessConfig)
    safety: SafetyConfig | None = field(default_factory=SafetyConfig)
    unsafe: UnsafeConfig | None = field(default_factory=UnsafeConfig)
    refusal: RefusalConfig | None = None
    confidence: Probability = 0.95
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def questions(self) -> dict[str, QuestionConfig]:
        """Return what is asked, by its key."""
        found: dict[str, QuestionConfig | None] = {
            "helpfulness": self.helpfulness,
            "safety": self.safety,
            "unsafe": self.unsafe,
            "refusal": self.refusal,
        }
        return {name: question for name, question in found.items() if question is not None}

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if not self.questions():
            yield "helpfulness", "is null, and so is every other question; leave one of them"
        for name, question in self.questions().items():
            if question.set is not None and self.prompts.path is None:
                yield (
                    f"{name}.set",
                    f"is {question.set!r}, and held-out prompts have no sets; set prompts.path",
                )
