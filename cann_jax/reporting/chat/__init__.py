"""Try a run's model: a prompt answered by the reference and by the aligned model, side by side."""

from cann_jax.reporting.chat.console import answer_lines, answer_one, converse
from cann_jax.reporting.chat.policies import Policies, aligned_run

__all__ = ["Policies", "aligned_run", "answer_lines", "answer_one", "converse"]
