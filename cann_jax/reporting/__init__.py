"""What a person reads after a run: the verdict on the terminal, ``report.html`` and ``report.md``."""

from cann_jax.files.atomic import write_bytes_atomic
from cann_jax.reporting.advice import next_steps
from cann_jax.reporting.findings import Findings, ScoreModelFindings
from cann_jax.reporting.markdown import report_text
from cann_jax.reporting.page import page, state
from cann_jax.reporting.score_model_page import score_model_page, score_model_text, score_model_verdicts
from cann_jax.run.results import print_results
from cann_jax.run.run import Run, ScoreModelRun

__all__ = ["write_pages", "write_report", "write_score_model_report"]

PAGE, TEXT = "report.html", "report.md"


def write_pages(run: Run, at_work: str | None = None) -> Findings:
    """Write both reports of what a run has left so far; raises as ``write_report``."""
    findings = Findings(run, at_work)
    _write(run, page(findings), report_text(findings, state(findings)))
    return findings


def write_report(run: Run, at_work: str | None = None) -> Findings:
    """Write both reports of what a run has left so far, and print its result, the verdict last.

    ``at_work`` is what another process does there.

    Raises:
        InputError: A file of the run cannot be read, or the folder cannot be written.
    """
    findings = write_pages(run, at_work)
    for step in next_steps(findings):
        print(f"next: {step}")
    if findings.results is None:
        print(f"{run.config.name}: {state(findings).upper()}")
    else:
        print_results(findings.results)
    return findings


def write_score_model_report(run: ScoreModelRun) -> None:
    """Write both reports of a reward or cost model's run, and print how far it tells pairs apart.

    Raises:
        InputError: A file of the run cannot be read, or the folder cannot be written.
    """
    findings = ScoreModelFindings(run)
    _write(run, score_model_page(findings), score_model_text(findings))
    for verdict in score_model_verdicts(findings):
        print(f"{run.config.name}: {verdict.text}")


def _write(run: Run | ScoreModelRun, html: str, text: str) -> None:
    write_bytes_atomic(run.folder / PAGE, html.encode())
    write_bytes_atomic(run.folder / TEXT, text.encode())
    print(f"report: {run.folder / PAGE}, {TEXT}")
