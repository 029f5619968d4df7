"""Compare soft with drawn labels: how much the margin after a training varies from seed to seed.

Samples, scores and λ* of a run are computed once, or taken from an earlier run. A part of the prompts is then
trained on, once for each seed and kind of label, and the margin is measured on prompts that no training saw:
the mean over all pairs of responses of β·(log-ratio of the one with the higher r_λ − log-ratio of the other),
in nats. A seed determines the order of the prompts, the initial adapters and the draws.

    python benchmarks/labels.py --config configs/quickstart.yaml [--seeds 5] [--prompts 96] [--heldout 48]

Other flags are those of the run (``--prompts.limit 144`` samples no more than is needed). Writes
``benchmarks/results/labels.md``.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from etils import epath
from scipy import stats

from cann_jax import train
from cann_jax.command_line.run_options import parse_run
from cann_jax.core.preference import pseudo_reward
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.outputs import read_dual, read_problem, read_samples
from cann_jax.run.run import Run
from cann_jax.run.training import alignment, objective_of, preference_data, split_decoder
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.reference import with_reference
from cann_jax.training.step import start, train_step

RESULTS = Path(__file__).resolve().parent / "results" / "labels.md"
KINDS = {"soft": True, "drawn": False}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=96, help="prompts trained on")
    parser.add_argument("--heldout", type=int, default=48, help="prompts measured on, none trained on")
    given, overrides = parser.parse_known_args()
    flags = ["--config", given.config, "--stages", "sample,score,dual", *overrides]
    train.main(flags)
    run = Run(parse_run(flags)[0])
    every = labelled_samples(run)
    trained, held = part(every, 0, given.prompts), part(every, given.prompts, given.prompts + given.heldout)
    before = run.reference.logps(*arguments_of(held))
    margins: dict[str, list[float]] = {kind: [] for kind in KINDS}
    began = time.monotonic()
    trained = with_references(run, trained)
    for seed in range(given.seeds):
        for kind in KINDS:
            config = replace(run.config, seed=seed, align=replace(run.config.align, soft_labels=KINDS[kind]))
            policy = trained_policy(Run(config), replace(trained, batching=alignment(config).batching))
            after = policy.logps(*arguments_of(held))
            margins[kind].append(margin(run.config.dual.beta * (after - before), held.reward))
            print(f"seed {seed}, {kind}: {margins[kind][-1]:.4f} nats", flush=True)
    RESULTS.write_text(report(given, overrides, run, margins, time.monotonic() - began))


def labelled_samples(run: Run) -> PreferenceData:
    """Return the run's samples with r_λ."""
    reward = np.asarray(pseudo_reward(read_problem(run).scores, read_dual(run).ordered(run.config)))
    return preference_data(alignment(run.config), read_samples(run), reward)


def part(data: PreferenceData, first: int, last: int) -> PreferenceData:
    """Return the data of some of the prompts."""
    return replace(
        data,
        responses=data.responses.take(range(first, last)),
        reward=data.reward[first:last],
        reference=data.reference[first:last],
        scores={name: values[first:last] for name, values in data.scores.items()},
        heldout=np.zeros(0, int),
    )


def arguments_of(data: PreferenceData) -> tuple:
    responses = data.responses
    return responses.prompts.ids, responses.tokens, responses.lengths


def with_references(run: Run, data: PreferenceData) -> PreferenceData:
    """Return the data with the reference's log-probs, the same for all seeds, which all take the extremes."""
    model = split_decoder(run, run.config.align.lora)
    objective = objective_of(alignment(run.config), model.graph, data.steps)
    with tempfile.TemporaryDirectory() as folder:
        return with_reference(objective, model.reference, model.frozen, data, epath.Path(folder))


def trained_policy(run: Run, data: PreferenceData) -> LanguageModel:
    """Return the policy after one training."""
    model = split_decoder(run, run.config.align.lora)
    objective = objective_of(alignment(run.config), model.graph, data.steps)
    state, key = start(objective, model.reference), jax.random.key(run.config.seed)
    for step in range(data.steps):
        state, _ = train_step(objective, state, model.frozen, data.batch(step), key)
    return LanguageModel.of(model.decoder(state.weights), run.files)


def margin(log_ratios: np.ndarray, reward: np.ndarray) -> float:
    """Return the mean margin over prompts and pairs of responses, each pair in the order of r_λ."""
    difference = log_ratios[:, :, None] - log_ratios[:, None, :]
    return float(np.mean(difference[reward[:, :, None] > reward[:, None, :]]))


def report(
    given: argparse.Namespace, overrides: list[str], run: Run, margins: dict[str, list[float]], seconds: float
) -> str:
    rows = [
        f"| {seed} | {soft:.4f} | {drawn:.4f} |"
        for seed, (soft, drawn) in enumerate(zip(*margins.values(), strict=True))
    ]
    mean, spread = (
        [f"{of(margins[kind]):.4f}" for kind in KINDS] for of in (statistics.mean, statistics.stdev)
    )
    ratio = statistics.variance(margins["drawn"]) / statistics.variance(margins["soft"])
    low, high = (ratio / stats.f.ppf(q, given.seeds - 1, given.seeds - 1) for q in (0.975, 0.025))
    align = run.config.align
    return REPORT.format(
        config=given.config, more=" ".join(overrides),
        prompts=given.prompts, heldout=given.heldout, seeds=given.seeds,
        pairs=align.group_size * (align.group_size - 1) // 2, group=align.group_size, seconds=seconds,
        rows="\n".join(rows), mean=" | ".join(mean), spread=" | ".join(spread),
        ratio=ratio, low=low, high=high, size=align.prompts_per_step,
    )  # fmt: skip


REPORT = """\
# Soft against drawn labels

```
python benchmarks/labels.py --config {config} --seeds {seeds} --prompts {prompts} --heldout {heldout} {more}
```

{prompts} prompts of the run are trained on, {size} a step and {group} responses each ({pairs} pairs); the
margin is measured on {heldout} others: β·(log-ratio of the response with the higher r_λ − of the other),
nats, mean over pairs. {seconds:.0f} s in all.

| seed | soft | drawn |
|---|---|---|
{rows}
| mean | {mean} |
| standard deviation | {spread} |

Variance with drawn labels over variance with soft ones: {ratio:.2f}, 95 % interval (F)
{low:.2f} to {high:.2f}.
"""

if __name__ == "__main__":
    main()
