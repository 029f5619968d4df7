"""A conversation with both policies: each has its own replies as context."""

from dataclasses import dataclass, field

from cann_jax.data.prompts import Prompt, Turn
from cann_jax.reporting.chat.policies import Answer, Policies
from cann_jax.run.outputs import POLICIES

Turns = tuple[Turn, ...]


@dataclass
class Conversation:
    """The turns so far, and how the next answer is drawn.

    Args:
        policies: Who answers.
        seed: Seed of the draw: the same turns and seed give the same answers.
        earlier: Turns before the next prompt, by policy; none are kept where the template writes but one.
    """

    policies: Policies
    seed: int
    earlier: dict[str, Turns] = field(default_factory=lambda: dict.fromkeys(POLICIES, ()))
    _draws: int = 0  # further ones of an answer
    _last: tuple[str, dict[str, Turns]] | None = None

    @property
    def seed_of_draw(self) -> int:
        """The seed of the next answer."""
        return self.seed + self._draws

    def ask(self, text: str) -> dict[str, Answer]:
        """Return both answers to the next prompt, and keep them as turns; raises as ``Policies.answers``."""
        prompts = {name: Prompt("chat", text, None, turns) for name, turns in self.earlier.items()}
        found = self.policies.answers(prompts, self.seed_of_draw)
        self._last = text, self.earlier
        if self.policies.converses:
            self.earlier = {
                name: (*prompts[name].dialogue, Turn("assistant", answer.text))
                for name, answer in found.items()
            }
        return found

    def again(self) -> dict[str, Answer] | None:
        """Answer the last prompt by the next seed, in place of what was answered; None before the first."""
        if self._last is None:
            return None
        text, self.earlier = self._last
        self._draws += 1
        return self.ask(text)

    def reset(self) -> None:
        """Begin anew: forget all turns, and go back to the first seed."""
        self.earlier, self._last, self._draws = dict.fromkeys(POLICIES, ()), None, 0
