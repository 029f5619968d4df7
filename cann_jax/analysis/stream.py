"""Solve the dual problem of a long Parquet table larger than memory, its rows sorted by prompt, in passes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from cann_jax.analysis.as_json import solution_json
from cann_jax.analysis.constraints import clip_bounds, constraints_asked, names_asked
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.tables import require
from cann_jax.core.feasibility import Feasible
from cann_jax.core.prepare import constraint_values
from cann_jax.core.problem import Constraint, make_targets
from cann_jax.core.scores import Scores
from cann_jax.core.solver.stream import StreamedSolution, solve_stream
from cann_jax.files.atomic import write_json
from cann_jax.files.errors import InfeasibleError, InputError

ROWS = 1 << 20  # rows read at once: tens of megabytes, and a few thousand prompts


def solve_streamed_table(path: str, flags: DualFlags) -> None:
    """Solve a streamed table, print the solution, and write ``dual.json`` to ``--out``.

    Raises:
        InputError: The table is not a long Parquet table sorted by prompt, or the constraints need it in
            memory.
        InfeasibleError: The margins are out of reach.
    """
    file = Path(path)
    constraints = constraints_asked(flags, _checked_names(file, flags))
    reader = _Reader(file, flags, constraints)
    found = solve_stream(reader.chunks, make_targets(constraints, np.float32), flags.beta)
    verdict = Feasible(int(found.solution.feasible)).name.lower()
    _print_solution(found, constraints, verdict)
    if flags.out:
        content = solution_json(found.solution) | {
            "feasible": verdict,
            "constraints": [constraint.name for constraint in constraints],
            "beta": flags.beta,
            "margins": found.margins,
            "largest_margin": found.largest_margin,
        }
        write_json(epath.Path(flags.out) / "dual.json", content)
    if found.solution.feasible == Feasible.NO:
        raise InfeasibleError(
            "margins out of reach on these responses; lower them (the largest ones are above)"
        )


def _checked_names(file: Path, flags: DualFlags) -> list[str]:
    """Return the names of the constraint scores, after checking that the table can be streamed."""
    if file.suffix != ".parquet" or not file.is_file():
        raise InputError(f"{file}: --stream reads one long .parquet file; give an existing one")
    if flags.groups or flags.prompt_weights or any("@" in goal for _, goal in flags.goals):
        raise InputError("--stream takes no groups and no prompt weights; solve such tables in memory")
    names = names_asked(flags)
    if not names:
        raise InputError("--stream needs names: write --margin NAME=VALUE")
    require(str(file), [flags.prompt, flags.reward, *names], pq.read_schema(file).names)
    return names


def _print_solution(found: StreamedSolution, constraints: list[Constraint], verdict: str) -> None:
    for j, constraint in enumerate(constraints):
        print(
            f"{constraint.name}: margin {found.margins[j]:.4g}, largest {found.largest_margin[j]:.4g}, "
            f"lambda* {found.solution.multipliers[j]:.5g}, "
            f"improvement {found.solution.predicted_improvement[j]:.4g}"
        )
    print(
        f"feasible: {verdict}   converged: {str(bool(found.solution.converged)).lower()}   "
        f"KL {found.solution.kl:.3g} nats   {found.prompts} prompts in {found.passes} passes"
    )


class _Reader:
    """Reads chunks of whole prompts, all of one shape, once for each pass."""

    def __init__(self, path: Path, flags: DualFlags, constraints: list[Constraint]) -> None:
        self.path, self.prompt, self.reward = path, flags.prompt, flags.reward
        self.constraints, self.bounds = constraints, clip_bounds(flags).get(flags.reward)
        self.responses, self.prompts = self._shape()

    def _shape(self) -> tuple[int, int]:
        """Return the most responses of a prompt and the most prompts in a chunk.

        Raises:
            InputError: The table has no rows, or the rows of a prompt are not adjacent.
        """
        longest, most, seen = 0, 0, set[int]()
        for codes, _ in self._batches([self.prompt]):
            starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
            lengths = np.diff(np.r_[starts, len(codes)])
            longest, most = max(longest, lengths.max()), max(most, len(lengths))
            # Within a batch all prompts are compared, between batches only the ends: memory stays flat.
            ends = {hash(codes[0]), hash(codes[-1])}
            if ends & seen or len(np.unique(codes[starts])) < len(starts):
                raise InputError(
                    f"{self.path}: the rows of a prompt are not adjacent; sort the table by {self.prompt}"
                )
            seen |= ends
        if not longest:
            raise InputError(f"{self.path}: the table has no rows; write one row for each response")
        return int(longest), int(most)

    def _batches(self, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Yield batches of whole prompts: each batch leaves its last prompt to the next one."""
        held = None
        with pq.ParquetFile(self.path) as file:
            for batch in _row_groups(file, columns):
                table = pa.Table.from_batches([batch])
                table = table if held is None else pa.concat_tables([held, table])
                codes = table[self.prompt].to_numpy()
                last = int(np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])[-1])
                held = table.slice(last)
                if last:
                    yield codes[:last], table.slice(0, last)
        if held is not None and held.num_rows:
            yield held[self.prompt].to_numpy(), held

    def chunks(self) -> Iterator[Scores]:
        """Yield the scores of one pass over the file.

        Raises:
            InputError: Scores are missing, NaN or infinite.
        """
        names = list(dict.fromkeys(c.name for c in self.constraints))
        for codes, table in self._batches([self.prompt, self.reward, *names]):
            starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
            lengths = np.diff(np.r_[starts, len(codes)])
            mask = np.zeros((self.prompts, self.responses), bool)
            mask[: len(starts)] = np.arange(self.responses) < lengths[:, None]
            reward = self._placed(table, self.reward, mask)
            reward = reward if self.bounds is None else np.clip(reward, *self.bounds)
            raw = {name: self._placed(table, name, mask) for name in names}
            stacked = [constraint_values(c, raw[c.name]) for c in self.constraints]
            yield Scores(reward, np.stack(stacked, axis=-1), mask)

    def _placed(self, table: pa.Table, name: str, mask: np.ndarray) -> np.ndarray:
        values = np.asarray(table[name].to_numpy(), np.float32)
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.path}: {name} has scores that are missing, NaN or infinite; fix or drop these rows"
            )
        placed = np.zeros(mask.shape, np.float32)
        placed[mask] = values
        return placed


def _row_groups(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield all rows in order.

    One reader over all row groups would keep everything that it has read: 4 GB for 10⁹ scores.
    """
    for group in range(file.num_row_groups):
        yield from file.iter_batches(ROWS, row_groups=[group], columns=columns)
