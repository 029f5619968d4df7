"""The report of a reward or cost model: how far it tells which response people prefer."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cann_jax.reporting.charts import Chart
from cann_jax.reporting.findings import ScoreModelFindings
from cann_jax.reporting.page import TEMPLATES, what_every_run_has
from cann_jax.reporting.svg import AFTER, MUTED, drawn
from cann_jax.run.results import Verdict
from cann_jax.training.calibration import Reliability, plot_reliability

UNTOLD = np.log(2)  # log loss of a model that knows nothing
MEANINGS = {"holds": "better than", "fails": "worse than", "undecided": "perhaps"}


def score_model_page(findings: ScoreModelFindings) -> str:
    """Return the report as HTML, with whatever the run has left so far."""
    config = findings.run.config
    return TEMPLATES.get_template("score_model.html").render(
        **what_every_run_has(findings),
        state=score_model_state(findings),
        verdicts=score_model_verdicts(findings),
        lines=score_model_lines(findings),
        charts=_charts(findings),
        objective=config.objective,
        label=config.label,
        confidence=config.confidence,
        compute=None,
    )


def score_model_text(findings: ScoreModelFindings) -> str:
    """Return the report as Markdown."""
    parts = [f"# {findings.run.config.name}: {score_model_state(findings)}"]
    parts += [f"**{each.text}**" for each in score_model_verdicts(findings)]
    parts.append(
        f"Model `{findings.run.config.model.path}`. [report.html](report.html) has all of it, with charts."
    )
    if lines := score_model_lines(findings):
        parts += ["\n".join(f"- {line}" for line in lines), "![reliability](score_model/reliability.png)"]
    return "\n\n".join(parts) + "\n"


def score_model_state(findings: ScoreModelFindings) -> str:
    """Return the share of held-out pairs in the right order, or that there is none yet."""
    results = findings.results
    if results is None:
        return "not evaluated"
    return f"{results['accuracy']['accuracy']:.1%} of held-out pairs in the right order"


def score_model_verdicts(findings: ScoreModelFindings) -> list[Verdict]:
    """Return whether the model, and a cost model's sign, tells more than chance."""
    results = findings.results
    if results is None:
        return [
            Verdict(
                "not evaluated", "not evaluated: nothing is known yet of pairs that were kept from training"
            )
        ]
    found = [_verdict("pairs in the order that people gave", results["accuracy"])]
    if results.get("sign"):
        found.append(_verdict("responses on the right side of zero", results["sign"]))
    return found


def _verdict(what: str, found: dict[str, Any]) -> Verdict:
    low, high = found["interval"]
    kind = "holds" if low > 0.5 else "fails" if high < 0.5 else "undecided"
    meaning = {"holds": "better than chance", "fails": "worse than chance", "undecided": "perhaps chance"}[
        kind
    ]
    shares = f"{found['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
    return Verdict(kind, f"{shares} of {found['pairs']:,} held-out {what}: {meaning}")


def score_model_lines(findings: ScoreModelFindings) -> list[str]:
    """Return how much its confidence is worth, one sentence each."""
    if findings.results is None:
        return []
    curve = findings.results["calibration"]
    return [
        f"log loss {curve['log_loss']:.3f} nats; {UNTOLD:.3f} is no knowledge at all",
        f"calibration error {curve['error']:.3f}: how far its confidence is from how often it is right",
    ]


def _charts(findings: ScoreModelFindings) -> list[Chart]:
    if findings.results is None:
        return []
    values = findings.results["calibration"]
    counts, confidence, accuracy = (
        np.asarray(values[name], float)
        for name in ("counts", "confidence", "accuracy")  # null is NaN
    )
    curve = Reliability(counts, confidence, accuracy, values["error"], values["log_loss"])

    def draw(axes: Axes) -> None:
        plot_reliability(axes, curve, AFTER, MUTED)

    rows = [
        (f"{told:.3f}", f"{right:.3f}", f"{count:.0f}")
        for told, right, count in zip(confidence, accuracy, counts, strict=True)
        if count
    ]
    title = "Confidence, and how often it is right"
    return [
        Chart(title, drawn(draw, "reliability", title), ("confidence", "in the right order", "pairs"), rows)
    ]
