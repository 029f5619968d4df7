"""What a person reads after a run: a table on the terminal, pictures, and ``report.md``."""

from cann_jax.files.atomic import read_json, read_table, write_bytes_atomic
from cann_jax.reporting.console import print_results
from cann_jax.reporting.markdown import report_text
from cann_jax.reporting.plots import draw_clouds, draw_training
from cann_jax.run.run import Run

__all__ = ["write_report"]


def write_report(run: Run) -> None:
    """Leaves ``report.md`` and its pictures in the run's folder, and prints the result."""
    folder = run.folder
    results = read_json(folder / "evaluate" / "results.json")
    before, after = (read_table(folder / "evaluate" / f"{name}.parquet") for name in ("reference", "aligned"))
    draw_clouds(folder / "clouds.png", before, after, list(run.config.constraints))
    draw_training(folder / "training.png", folder / "align" / "metrics.jsonl")
    text = report_text(run.config, results, read_json(folder / "dual" / "dual.json"), before, after)
    write_bytes_atomic(folder / "report.md", text.encode())
    print_results(results)
    print(f"report: {folder / 'report.md'}")
