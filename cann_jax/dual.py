"""``python -m cann_jax.dual``: parse, call, print."""

import importlib
import sys
import threading
from collections.abc import Sequence

from cann_jax.files.errors import InfeasibleError, InputError
from cann_jax.runtime.compilation import keep_compilations


def main(argv: Sequence[str] | None = None) -> None:
    """Solve the problem that the flags state, print it, and write it under ``--out``.

    Raises:
        InputError: bad flags or a bad table.
        InfeasibleError: margins out of reach, after everything has been printed and written.
    """
    from cann_jax.analysis import arguments as flags

    arguments = flags.parser().parse_args(argv)
    flags.check(arguments)
    if arguments.out:
        # a second of imports, most of it while XLA compiles
        threading.Thread(target=importlib.import_module, args=["matplotlib.figure"], daemon=True).start()
    keep_compilations(0)  # every program is small here, and starting quickly is what counts
    if arguments.stream:
        from cann_jax.analysis.stream import run_stream

        return run_stream(arguments)
    _run(arguments)


def _run(arguments) -> None:
    from cann_jax.analysis import write
    from cann_jax.analysis.analyse import analyse
    from cann_jax.analysis.words import infeasible_message, warnings
    from cann_jax.core import Feasible, check_scores

    problem = _read_problem(arguments)
    summary = check_scores(problem.scores, problem.names)
    found = analyse(problem, arguments.beta, arguments.confidence, arguments.resamples, arguments.seed)
    said = warnings(found, summary)
    write.print_table(found, said)
    if arguments.out:
        from etils import epath

        from cann_jax.analysis.plots import draw

        out = epath.Path(arguments.out)
        write.write_json(out / "dual.json", found, said)
        write.write_curve(out / "curve.parquet", found)
        draw(out / "dual.png", found)
        print(f"written: {out / 'dual.json'}, curve.parquet, dual.png")
    if found.feasible == Feasible.NO:
        raise InfeasibleError(infeasible_message(found))


def _read_problem(arguments):
    from cann_jax.analysis import arguments as flags
    from cann_jax.analysis.tables import prompt_weights, read_scores
    from cann_jax.core import prepare

    columns = flags.columns(arguments)
    table = read_scores(arguments.scores, columns, flags.named_scores(arguments))
    available = [name for name in table.scores if name != columns.reward]
    return prepare(
        table.scores[columns.reward],
        table.scores,
        flags.constraints(arguments, available),
        groups=flags.groups(arguments, table),
        mask=None if table.mask.all() else table.mask,
        prompt_weights=prompt_weights(table, columns, arguments.scores),
        reward_clip=flags.clip_bounds(arguments).get(columns.reward),
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
