"""``report.html``: a run on one page that needs no network."""

import json
from typing import Any

import jinja2

from cann_jax.files.numbers import decimals, percent
from cann_jax.reporting.advice import next_steps
from cann_jax.reporting.curve_charts import curves
from cann_jax.reporting.estimate_charts import improvements
from cann_jax.reporting.findings import EndedStages, Findings, Json
from cann_jax.reporting.groups import HEADINGS as GROUP_HEADINGS
from cann_jax.reporting.groups import changes, distributions
from cann_jax.reporting.judged import SHARE_HEADINGS, WIN_HEADINGS, judge_name, judged
from cann_jax.reporting.multipliers import multiplier_lines
from cann_jax.reporting.samples import samples, shown_digits
from cann_jax.reporting.training_charts import trainings
from cann_jax.run.manifest import OUTPUTS, committed_outputs
from cann_jax.run.pipeline import Stage
from cann_jax.run.results import (
    Verdict,
    bound_lines,
    headings,
    number,
    policies_trained,
    result_rows,
    summary_lines,
    verdicts,
)
from cann_jax.run.stages import holding
from cann_jax.run.trained import reads_multipliers

SAMPLES = 200  # prompts of the page; 1,000 with texts of 250 tokens would be 2 MB

# Texts of models and people are hostile until escaped.
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("cann_jax.reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["percent"] = percent


def page(findings: Findings) -> str:
    """Return the report as HTML, with whatever the run has left so far."""
    results = findings.results
    few = findings.run.config.evaluate.examples
    shown = samples(findings, SAMPLES) if few else []
    return TEMPLATES.get_template("report.html").render(
        **what_every_run_has(findings),
        state=state(findings),
        verdicts=verdicts_of(findings),
        results=results,
        steps=next_steps(findings),
        headings=() if results is None else headings(results),
        rows=[] if results is None else result_rows(results),
        lines=[] if results is None else [*summary_lines(results), *bound_lines(results)],
        improvements=improvements(findings),
        dual=findings.dual,
        multipliers=[]
        if findings.dual is None
        else multiplier_lines(findings.dual, reads_multipliers(findings.run.config)),
        curves=curves(findings),
        judged=None if findings.judged is None else judged(findings.judged),
        judge=None if findings.judged is None else judge_name(findings.judged),
        judge_headings=(WIN_HEADINGS, SHARE_HEADINGS),
        group_headings=GROUP_HEADINGS,
        groups=changes(findings),
        distributions=distributions(findings),
        calibration=findings.calibration,
        tries=tries(findings),
        rounds=rounds(findings),
        samples=shown,
        few=few,
        sample_digits=shown_digits(shown),
        sample_groups=sorted({sample.group for sample in shown if sample.group}),
        scores=findings.scores,
        compute=None if results is None else results["summary"].get("compute"),
    )


def what_every_run_has(findings: EndedStages[Any]) -> dict[str, Any]:
    """Return what ``base.html``, ``trainings.html`` and ``stages.html`` show, of a run of any kind."""
    run = findings.run
    return {
        "name": run.config.name,
        "model": run.config.model.path,
        "trainings": trainings(findings),
        "stages": stages(findings),
        "settings": {key: json.dumps(value, ensure_ascii=False) for key, value in run.settings.items()},
        "hashes": hashes,
        "trained": policies_trained,
        "versions": findings.versions,
        "commits": findings.commits,
    }


def state(findings: Findings) -> str:
    """Return the run's state in a word: the verdict on all constraints, or that there is none yet."""
    results = findings.results
    return "not evaluated" if results is None else str(results["summary"]["verdict"])


def verdicts_of(findings: Findings) -> list[Verdict]:
    """Return the verdicts of a run; of one that was not evaluated, that."""
    if findings.results is not None:
        return verdicts(findings.results)
    return [Verdict(state(findings), "not evaluated: nothing is known yet of prompts that nobody has used")]


def stages(findings: EndedStages[Any]) -> list[dict[str, Any]]:
    """Return what each stage asks, whether it has ended, its cost where that is known, and its files."""
    return [
        {
            "name": stage.name,
            "question": stage.question,
            "ended": stage.name in findings.commits,
            "cost": findings.commits.get(stage.name, {}).get("compute") or {},
            "files": _files(findings, stage),
        }
        for stage in findings.run.stages
    ]


def _files(findings: EndedStages[Any], stage: Stage) -> list[str]:
    if stage.name not in findings.commits:
        return []
    return committed_outputs(findings.run.folder / stage.name, holding(stage.writes, findings.run.config))


def tries(findings: Findings) -> list[tuple[str, ...]]:
    """Return a row a scale whose policy was sampled: improvements, their errors, and the KL."""
    found = findings.calibration
    if found is None:
        return []
    digits = [decimals(goal["asked"]) for goal in found["constraints"].values()]
    return [
        (
            f"{each['scale']:.3f}",
            ", ".join(map(number, each["improvement"], digits)),
            ", ".join("–" if e is None else f"{e:.{d}f}" for e, d in zip(each["error"], digits, strict=True)),
            f"{each['kl']:.3f}",
        )
        for each in found["tries"]
    ]


def rounds(findings: Findings) -> list[tuple[str, ...]]:
    """Return a row a round: what each constraint had reached before it, and λ in it."""
    return [
        (
            str(each["round"]),
            ", ".join(
                f"{name} {number(value, decimals(each['margins'][name]))}"
                for name, value in each["measured_improvement"].items()
            ),
            ", ".join(f"{name} {value:.4g}" for name, value in each["multipliers"].items()),
        )
        for each in findings.rounds
    ]


def hashes(commit: Json) -> list[tuple[str, str]]:
    """Return what a stage read and wrote, each with its hash."""
    made = {name: each["sha256"] for name, each in commit[OUTPUTS].items()}
    return [*commit["inputs"].items(), *made.items()]
