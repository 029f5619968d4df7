"""``report.md``: what was asked, predicted and measured, with pictures and samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.config.run import RunConfig
from cann_jax.reporting.results import HEADINGS, bound_lines, result_rows, summary_lines, verdict_lines
from cann_jax.run.manifest import committed_outputs
from cann_jax.run.outputs import DualAnswer, read_rounds
from cann_jax.run.run import Run
from cann_jax.run.stages import holding
from cann_jax.training.health import Health

# What is measured on prompts kept from training, and how the report names it.
MEASURES = {
    "slope": "calibration slope",
    "correlation": "correlation with r_λ",
    "deviation": "deviation of the log-ratio, nats,",
    "accuracy": "accuracy",
}


def report_text(
    run: Run,
    results: dict[str, Any],
    dual: DualAnswer,
    health: Mapping[str, Health],
    before: pa.Table,
    after: pa.Table,
) -> str:
    """Return the whole report as Markdown.

    ``health`` is that of each training, by name; ``before`` and ``after`` are the held-out responses, with
    scores, of the reference and of the policy that is compared with it.
    """
    config, found = run.config, results["summary"]
    parts = [
        f"# {config.name}: {found['verdict'].upper()}",
        "\n".join(f"**{line}**  " for line in verdict_lines(results)),
        f"Model `{config.model.path}`; {found['prompts']} held-out prompts × {found['responses']} responses; "
        f"intervals: paired bootstrap over prompts, {config.evaluate.confidence:.0%}.",
        "## Asked, predicted, measured",
        "Improvement over the reference, in each score's units; predicted for λ before the training, on "
        "training prompts that were left out.",
        _table(HEADINGS, result_rows(results)),
        _list([*summary_lines(results), *bound_lines(results)]),
        "## The dual",
        "![dual curve with λ*, predicted trade-off, score cloud](dual/dual.png)",
        _list(_dual_lines(dual)),
        "## Before and after",
        "![score clouds of the reference and of the aligned model](clouds.png)",
        *_training_parts(run, health),
        "## Samples",
        "The same draw from both policies on held-out prompts, chosen evenly over the file.",
        *_samples(config, before, after),
        "## Files",
        _list(_stage_lines(run)),
    ]
    return "\n\n".join(parts) + "\n"


def _stage_lines(run: Run) -> list[str]:
    """Return a line a stage, with its question and links to what it left."""
    lines = []
    for stage in run.stages:
        left = committed_outputs(run.folder / stage.name, holding(stage.writes, run.config))
        links = ", ".join(f"[{name}]({stage.name}/{name})" for name in left)
        if links:
            lines.append(f"{stage.name} ({stage.question}) {links}")
    return lines


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = ([cell.replace("|", r"\|") for cell in row] for row in rows)  # a name may hold what parts them
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *cells]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _dual_lines(dual: DualAnswer) -> list[str]:
    lines = [
        f"feasible: {dual.feasible}; KKT residual {dual.kkt_residual:.1e} of the scores' spread",
        f"KL of the policy that tilts by the scores themselves: {dual.kl_share_of_log_responses:.0%} of ln K",
    ]
    return lines + [f"note: {sentence}" for sentence in dual.warnings]


def _training_parts(run: Run, health: Mapping[str, Health]) -> list[str]:
    if not health:
        return [f"Nothing was trained: `evaluate.policy` is {run.config.evaluate.policy}."]
    lines, rounds = [], read_rounds(run)
    for name, each in health.items():
        lines += [line if len(health) == 1 else f"{name}: {line}" for line in _training_lines(each, rounds)]
    return ["## The training", "![training](training.png)", _list(lines)]


def _training_lines(health: Health, rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the training went on the prompts that were kept from it, and its warnings."""
    lines = ["no warning"] if not health.warnings and not any(each["warnings"] for each in rounds) else []
    kept = next((check for check in health.checks if check["step"] == health.kept_step), None)
    if kept is not None:
        known = {name: kept.get(f"heldout_{key}") for key, name in MEASURES.items()}
        loss = f"loss {health.start_loss:.3f} → {kept['heldout_loss']:.3f}"
        others = [f"{name} {value:.3f}" for name, value in known.items() if value is not None]
        lines.append(f"{health.heldout_prompts} prompts kept from training: {', '.join([loss, *others])}")
    if health.kept_step != health.steps:
        lines.append(f"stopped early: the weights are those after step {health.kept_step} of {health.steps}")
    lines += [
        f"**warning**, after step {sign.first} and last after step {sign.last}: {sign.text}"
        for sign in health.warnings
    ]
    lines += [
        f"**warning** in round {record['round']}: {text}" for record in rounds for text in record["warnings"]
    ]
    return lines


def _samples(config: RunConfig, before: pa.Table, after: pa.Table) -> list[str]:
    names = ["reward", *config.constraints]
    firsts = np.flatnonzero(before.column("response").to_numpy() == 0)
    chosen = firsts[np.unique(np.linspace(0, len(firsts) - 1, config.evaluate.examples).astype(int))]
    return [_sample(before, after, int(row), names) for row in chosen]


def _sample(before: pa.Table, after: pa.Table, row: int, names: list[str]) -> str:
    lines = [f"**{_one_line(before.column('prompt')[row].as_py())}**", ""]
    for label, table in (("before", before), ("after", after)):
        scores = [f"{n} {table.column(n)[row].as_py():.2f}" for n in names if n in table.column_names]
        lines.append(f"- {label} ({', '.join(scores)}): {_one_line(table.column('text')[row].as_py())}")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """Return text that cannot break the page: one line, no Markdown or HTML of its own."""
    flat = " ".join(text.split()).replace("<", "&lt;")
    return "".join("\\" + c if c in "*_`[]#|\\" else c for c in flat)
