"""What a person reads after a run: a table on the terminal, pictures, and ``report.md``."""

from cann_jax.files.atomic import write_bytes_atomic
from cann_jax.reporting.markdown import report_text
from cann_jax.reporting.plots import draw_clouds, draw_training
from cann_jax.reporting.results import print_results
from cann_jax.run import outputs
from cann_jax.run.run import Run
from cann_jax.run.training import alignment, training_folders
from cann_jax.training.health import read_health
from cann_jax.training.metrics import METRICS

__all__ = ["write_report"]


def write_report(run: Run) -> None:
    """Write ``report.md`` and its pictures into the run's folder, and print the result, the verdict last.

    Raises:
        InputError: The run has not been evaluated, or a file cannot be read or written.
    """
    folder, results = run.folder, outputs.read_results(run)
    before = outputs.read_responses_with_scores(run, outputs.REFERENCE)
    after = outputs.read_responses_with_scores(run, outputs.ALIGNED)
    draw_clouds(folder / "clouds.png", before, after, list(run.config.constraints))
    names = training_folders(run.config)
    health = {name: read_health(folder / name) for name in names}
    if names:
        metrics = {name: folder / name / METRICS for name in names}
        draw_training(folder / "training.png", metrics, alignment(run.config).start)
    text = report_text(run, results, outputs.read_dual(run), health, before, after)
    write_bytes_atomic(folder / "report.md", text.encode())
    print(f"report: {folder / 'report.md'}")
    print_results(results)
