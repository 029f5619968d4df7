"""``--stream``: a long Parquet table larger than memory, its rows sorted by prompt, in passes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from cann_jax.analysis import arguments as flags
from cann_jax.analysis.tables import require
from cann_jax.analysis.write import solution_json
from cann_jax.core import Constraint, Feasible, Scores
from cann_jax.core.prepare import constraint_values
from cann_jax.core.problem import make_targets
from cann_jax.core.solver.stream import StreamedSolution, solve_stream
from cann_jax.files.atomic import write_json
from cann_jax.files.errors import InfeasibleError, InputError

ROWS = 1 << 20  # rows read at once: tens of megabytes, and a few thousand prompts


def run_stream(arguments) -> None:
    """Solve a streamed table, print it, and write ``dual.json`` under ``--out``.

    Raises:
        InputError: not a long Parquet table sorted by prompt, or constraints that need it in memory.
        InfeasibleError: margins out of reach.
    """
    path = Path(arguments.scores)
    if path.suffix != ".parquet" or not path.is_file():
        raise InputError(f"{path}: --stream reads one long .parquet file; give an existing one")
    if arguments.groups or arguments.prompt_weights or any("@" in g for g in arguments.margin):
        raise InputError("--stream takes no groups and no prompt weights; solve such tables in memory")
    names = flags.named_scores(arguments)
    if not names:
        raise InputError("--stream needs names: write --margin NAME=VALUE")
    require(str(path), [arguments.prompt, arguments.reward, *names], pq.read_schema(path).names)
    constraints = flags.constraints(arguments, names)
    bounds = flags.clip_bounds(arguments).get(arguments.reward)
    reader = _Reader(path, arguments.prompt, arguments.reward, constraints, bounds)
    found = solve_stream(reader.chunks, make_targets(constraints, np.float32), arguments.beta)
    _report(found, constraints, arguments)


def _report(found: StreamedSolution, constraints: list[Constraint], arguments) -> None:
    verdict = Feasible(int(found.solution.feasible))
    for j, constraint in enumerate(constraints):
        print(
            f"{constraint.name}: margin {found.margins[j]:.4g}, largest {found.largest_margin[j]:.4g}, "
            f"lambda* {found.solution.multipliers[j]:.5g}, "
            f"improvement {found.solution.predicted_improvement[j]:.4g}"
        )
    print(
        f"feasible: {verdict.name.lower()}   converged: {str(bool(found.solution.converged)).lower()}   "
        f"KL {found.solution.kl:.3g} nats   {found.prompts} prompts in {found.passes} passes"
    )
    if arguments.out:
        content = solution_json(found.solution) | {
            "feasible": verdict.name.lower(),
            "constraints": [c.name for c in constraints],
            "beta": arguments.beta,
            "margins": found.margins.tolist(),
            "largest_margin": found.largest_margin.tolist(),
        }
        write_json(epath.Path(arguments.out) / "dual.json", content)
    if verdict == Feasible.NO:
        raise InfeasibleError("margins out of reach on these responses; ask for less (largest: above)")


class _Reader:
    """Chunks of whole prompts, all of one shape, anew for each pass."""

    def __init__(self, path: Path, prompt: str, reward: str, constraints: list[Constraint], bounds) -> None:
        self.path, self.prompt, self.reward = path, prompt, reward
        self.constraints, self.bounds = constraints, bounds
        self.responses, self.prompts = self._shape()

    def _shape(self) -> tuple[int, int]:
        """Most responses of a prompt, and most prompts in a chunk; refuses prompts that come back."""
        longest, most, seen = 0, 0, set()
        for codes, _ in self._batches([self.prompt]):
            starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
            lengths = np.diff(np.r_[starts, len(codes)])
            longest, most = max(longest, lengths.max()), max(most, len(lengths))
            # within a batch all prompts are compared, between batches only their ends: memory stays flat
            ends = {hash(codes[0]), hash(codes[-1])}
            if ends & seen or len(np.unique(codes[starts])) < len(starts):
                raise InputError(f"{self.path}: a prompt's rows lie apart; sort them by {self.prompt}")
            seen |= ends
        if not longest:
            raise InputError(f"{self.path}: the table has no rows; write one row for each response")
        return int(longest), int(most)

    def _batches(self, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Whole prompts: each batch gives up its last one to the next."""
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
        """One pass over the file.

        Raises:
            InputError: scores that are missing, NaN or infinite.
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
            raise InputError(f"{self.path}: {name} has scores that are missing, NaN or infinite; mend them")
        placed = np.zeros(mask.shape, np.float32)
        placed[mask] = values
        return placed


def _row_groups(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """All rows in order; one reader over all groups would keep all it has read, 4 GB of 10⁹ scores."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(ROWS, row_groups=[group], columns=columns)
