"""``reliability.png``: confidence of a score model against how often it is right."""

import numpy as np

from cann_jax.training.calibration import Reliability


def draw_reliability(path, found: Reliability) -> None:
    """One panel: the bins that hold pairs, their sizes, and the diagonal that a calibrated model follows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    held = found.counts > 0
    axes.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":", label="calibrated")
    axes.plot(found.confidence[held], found.accuracy[held], color="C0")
    sizes = 20 + 300 * found.counts[held] / found.counts.sum()
    axes.scatter(found.confidence[held], found.accuracy[held], sizes, color="C0", label="held-out pairs")
    axes.set(xlabel="confidence σ(|difference|)", ylabel="share ordered rightly", xlim=(0.48, 1.02))
    axes.set_ylim(min(0.3, float(np.min(found.accuracy[held]))) - 0.02, 1.02)
    axes.set_title(f"calibration error {found.error:.3f}")
    axes.legend()
    figure.savefig(path, dpi=100, bbox_inches="tight")
