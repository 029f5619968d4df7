"""What a person reads after a run: the verdict on the terminal, ``report.html`` and ``report.md``."""

from cann_jax.files.atomic import write_bytes_atomic
from cann_jax.reporting.advice import next_steps
from cann_jax.reporting.findings import Findings
from cann_jax.reporting.markdown import report_text
from cann_jax.reporting.page import page, state
from cann_jax.reporting.results import print_results
from cann_jax.run.run import Run

__all__ = ["write_pages", "write_report"]

PAGE, TEXT = "report.html", "report.md"


def write_pages(run: Run) -> Findings:
    """Write both reports of what a run has left so far; raises as ``write_report``."""
    findings = Findings(run)
    write_bytes_atomic(run.folder / PAGE, page(findings).encode())
    write_bytes_atomic(run.folder / TEXT, report_text(findings, state(findings)).encode())
    print(f"report: {run.folder / PAGE}, {TEXT}")
    return findings


def write_report(run: Run) -> Findings:
    """Write both reports of what a run has left so far, and print its result, the verdict last.

    Raises:
        InputError: A file of the run cannot be read, or the folder cannot be written.
    """
    findings = write_pages(run)
    for step in next_steps(findings):
        print(f"next: {step}")
    if findings.results is None:
        print(f"{run.config.name}: {state(findings).upper()}")
    else:
        print_results(findings.results)
    return findings
