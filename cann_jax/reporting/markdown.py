"""``report.md`` and ``comparison.md``: the verdict and the tables, for terminals and for code hosts."""

from collections.abc import Mapping, Sequence

from cann_jax.files.console import one_line
from cann_jax.reporting.advice import next_steps
from cann_jax.reporting.findings import Findings
from cann_jax.reporting.multipliers import multiplier_lines
from cann_jax.reporting.samples import Sample, samples, shown_digits
from cann_jax.run.results import bound_lines, headings, result_rows, summary_lines, verdict_lines
from cann_jax.run.trained import reads_multipliers
from cann_jax.training.health import Health

# What is measured on prompts kept from training, and how the report names it.
MEASURES = {
    "slope": "calibration slope",
    "correlation": "correlation with r_λ",
    "deviation": "deviation of the log-ratio, nats,",
    "accuracy": "accuracy",
}


def report_text(findings: Findings, state: str) -> str:
    """Return the report as Markdown; ``state`` is the verdict, or that there is none yet."""
    config, results = findings.run.config, findings.results
    parts = [f"# {config.name}: {state.upper()}"]
    if results is not None:
        parts.append("\n".join(f"**{line}**  " for line in verdict_lines(results)))
    if steps := next_steps(findings):
        parts += ["## What to do next", _list(steps)]
    parts.append(f"Model `{config.model.path}`. [report.html](report.html) has all of it, with charts.")
    if results is not None:
        lines = [*summary_lines(results), *bound_lines(results)]
        parts += [
            "## Asked, measured, predicted",
            table(headings(results), result_rows(results)),
            _list(lines),
        ]
    if dual := findings.dual:
        lines = [
            *multiplier_lines(dual, reads_multipliers(config)),
            *(f"note: {sentence}" for sentence in dual["warnings"]),
        ]
        picture = "![multiplier, trade-off and responses](dual/dual.png)"
        parts += ["## The dual", picture, _list(lines)]
    if lines := _training_lines(findings):
        parts += ["## The training", _list(lines)]
    elif not config.trains:
        parts.append(f"Nothing was trained: `evaluate.policy` is {config.evaluate.policy}.")
    if shown := samples(findings, config.evaluate.examples):
        digits = shown_digits(shown)
        parts += ["## Samples", *(_sample(each, digits) for each in shown)]
    return "\n\n".join(parts) + "\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is words."""
    first, *cells = ([_cell(text) for text in row] for row in (headings, *rows))
    lines = [first, ["---"] + ["---:"] * (len(headings) - 1), *cells]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(text: str) -> str:
    """Return text that cannot break a table, nor load or link anything: a name may come from data."""
    flat = one_line(text).replace("\\", r"\\").replace("|", r"\|")
    # Of "[" alone an interval begins.
    return flat.replace("<", "&lt;").replace("](", r"]\(")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _training_lines(findings: Findings) -> list[str]:
    """Return how each training went on the prompts that were kept from it, and its warnings."""
    logs = findings.trainings
    lines = []
    for log in logs:
        name = f"{log.name}: " if len(logs) > 1 else ""
        lines += [name + line for line in ([] if log.health is None else _health_lines(log.health))]
    return lines


def _health_lines(health: Health) -> list[str]:
    lines = [] if health.warnings else ["no warning"]
    kept = next((check for check in health.checks if check["step"] == health.kept_step), None)
    if kept is not None:
        known = {name: kept.get(f"heldout_{key}") for key, name in MEASURES.items()}
        loss = f"loss {health.start_loss:.3f} → {kept['heldout_loss']:.3f}"
        others = [f"{name} {value:.3f}" for name, value in known.items() if value is not None]
        lines.append(f"{health.heldout_prompts} prompts kept from training: {', '.join([loss, *others])}")
    if health.kept_step not in (None, health.steps):
        lines.append(f"stopped early: the weights are those after step {health.kept_step} of {health.steps}")
    return lines + [f"**warning**, {sign.when}: {sign.text}" for sign in health.warnings]


def _sample(sample: Sample, digits: Mapping[str, int]) -> str:
    lines = [f"**{_one_line(sample.prompt)}**", ""]
    for label, text, found in (
        ("before", sample.before, sample.scores_before),
        ("after", sample.after, sample.scores_after),
    ):
        scores = ", ".join(f"{name} {value:.{digits[name]}f}" for name, value in found.items())
        lines.append(f"- {label} ({scores}): {_one_line(text)}")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """Return text that cannot break the page: one line, no Markdown or HTML of its own."""
    flat = one_line(text).replace("<", "&lt;")
    return "".join("\\" + c if c in "*_`[]#|\\" else c for c in flat)
