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
MEANINGS = {"holds": "better than", "fails": "worse than", "undecided": "perhaps no better than"}


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
    """Return whether the model tells more than chance, and a cost's sign more than a constant."""
    results = findings.results
    if results is None:
        return [
            Verdict(
                "not evaluated", "not evaluated: nothing is known yet of pairs that were kept from training"
            )
        ]
    pairs = f"{results['accuracy']['pairs']:,} held-out pairs in the order that people gave"
    found = [_verdict(pairs, results["accuracy"], 0.5, "chance")]
    if sign := results.get("sign"):
        share = sign["majority_share"]  # where 85 % are safe, a constant is right for 85 %
        always = f'always "{sign["majority"]}", which has {share:.1%}'
        responses = f"{sign['responses']:,} held-out responses on the right side of zero"
        found.append(_verdict(responses, sign, share, always))
    return found


def _verdict(what: str, found: dict[str, Any], baseline: float, name: str) -> Verdict:
    """Return whether the interval of an accuracy is above, below or about that of one who knows nothing."""
    low, high = found["interval"]
    kind = "holds" if low > baseline else "fails" if high < baseline else "undecided"
    return Verdict(
        kind, f"{found['accuracy']:.1%} [{low:.1%}, {high:.1%}] of {what}: {MEANINGS[kind]} {name}"
    )


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
