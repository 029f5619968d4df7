"""Compare a reward model (LoRA) with two rules on held-out human preferences, with its learning curve.

    python benchmarks/reward_model.py --data FILE_OR_FOLDER

The rules: the shorter response wins; a logistic regression on the difference of the responses' word counts.
All see the same training pairs and are evaluated on the same held-out pairs, whose prompts no training saw.
The curve shows accuracy over the number of pairs, in one run. Writes ``benchmarks/results/reward_model.md``.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from cann_jax.config.model import ModelConfig
from cann_jax.config.preferences import PreferencesConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.config.training import LoraConfig, OptimizerConfig
from cann_jax.run.run import ScoreModelRun
from cann_jax.run.training import split_decoder
from cann_jax.runtime.compilation import keep_compilations
from cann_jax.stages import pairs
from cann_jax.stages.score_model import heldout_scores, initial_weights, score_data, score_objective
from cann_jax.training.calibration import accuracy, reliability
from cann_jax.training.score_data import ScoreData
from cann_jax.training.score_objective import learnt_differences
from cann_jax.training.step import start, train_step

RESULTS = Path(__file__).resolve().parent / "results" / "reward_model.md"
EVERY_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="preference data, a file or a folder")
    parser.add_argument("--dataset", default="hh_rlhf", help="whose columns they have (preferences.dataset)")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--heldout", type=float, default=0.34, help="share of prompts held out")
    parser.add_argument("--max_tokens", type=int, default=144)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=8e-4)
    parser.add_argument("--every", type=int, default=160, help="pairs between two points of the curve")
    return parser.parse_args()


def config_of(given: argparse.Namespace, folder: str) -> ScoreModelConfig:
    data = PreferencesConfig(
        dataset=given.dataset,
        on_overlong="truncate_prompt_left",
        on_bad_row="drop",
        path=given.data,
        chosen_is="better",
        heldout=given.heldout,
        max_tokens=given.max_tokens,
        prepared=folder,
    )
    return ScoreModelConfig(
        name="benchmark",
        model=ModelConfig(given.model, given.dtype),
        preferences=data,
        lora=LoraConfig(rank=8, alpha=16.0, dropout=0.05, targets=EVERY_LAYER),
        optimizer=OptimizerConfig(given.learning_rate, warmup_steps=4, final_fraction=0.1, weight_decay=0.0),
        epochs=given.epochs,
        rematerialise="elementwise",
        run_dir=folder,
    )


def lengths_rule(data: ScoreData) -> np.ndarray:
    """Return differences in the direction of the label under "the shorter response wins", in characters."""
    texts = np.array([[len(text) for text in both] for both in data.responses.texts])
    return learnt_differences(-texts.astype(np.float64), data.preferred, "reward")


def word_rule(train: ScoreData, heldout: ScoreData) -> np.ndarray:
    """Return them under a logistic regression on differences of word counts, with scikit-learn's defaults."""
    words = CountVectorizer(min_df=2)
    words.fit(train.responses.flat_texts())

    def differences(data: ScoreData):
        first, second = (words.transform([both[side] for both in data.responses.texts]) for side in (0, 1))
        return first - second

    sign = np.where(train.preferred == 0, 1, -1)
    # Every second pair is swapped, because a classifier cannot learn from labels that are all equal.
    flip = np.where(np.arange(len(sign)) % 2, -1, 1)
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(differences(train).multiply(flip[:, None]).tocsr(), sign * flip)
    return model.decision_function(differences(heldout)) * np.where(heldout.preferred == 0, 1, -1)


def row(name: str, learnt: np.ndarray) -> str:
    found, curve = accuracy(learnt, 0.95), reliability(learnt)
    low, high = found.interval
    line = f"| {name} | {found.accuracy:.1%} | {low:.1%} to {high:.1%} |"
    print(line, flush=True)
    return f"{line} {curve.log_loss:.3f} | {curve.error:.3f} |"


def learn(
    run: ScoreModelRun, train: ScoreData, heldout: ScoreData, every: int
) -> list[tuple[int, float, np.ndarray]]:
    """Return (pairs seen, seconds of training, held-out differences) along one run, including its start."""
    model = split_decoder(run, run.config.lora)
    objective = score_objective(run.config, model.graph, train.steps)
    state = start(objective, initial_weights(model, run.files.config.hidden))
    seed = jax.random.key(run.config.seed)
    points, seconds = [], 0.0
    for step in range(train.steps):
        began = time.monotonic()
        state, measured = train_step(objective, state, model.frozen, train.batch(step), seed)
        loss = float(measured["loss"])
        seconds += time.monotonic() - began
        size = train.batching.prompts_per_step
        seen = (step + 1) * size
        print(f"step {step}: loss {loss:.4f}, {seconds:.0f} s", flush=True)
        if seen // every > (seen - size) // every or step + 1 == train.steps:
            scores = heldout_scores(objective, state.weights, model.frozen, heldout)
            points.append((seen, seconds, learnt_differences(scores, heldout.preferred, "reward")))
            row(f"after {seen} pairs", points[-1][2])
    return points


def main() -> None:
    given = arguments()
    keep_compilations()
    with tempfile.TemporaryDirectory() as folder:
        run = ScoreModelRun(config_of(given, folder))
        pairs.run(run)
        train, heldout = score_data(run, "train"), score_data(run, "heldout")
        rules = [row("the shorter response wins", lengths_rule(heldout))]
        rules.append(row("logistic regression on word counts", word_rule(train, heldout)))
        points = learn(run, train, heldout, given.every)
        seen, seconds, last = points[-1]
        rules.append(row(f"reward model after {seen} pairs", last))
    curve = [f"| {n} | {s:.0f} |" + row("", x).split("|", 2)[2] for n, s, x in points]
    RESULTS.write_text(REPORT.format(
        model=given.model, pairs=len(train.chosen), heldout=len(heldout.chosen), epochs=given.epochs,
        max_tokens=given.max_tokens, rate=given.learning_rate, dtype=given.dtype, rules="\n".join(rules),
        curve="\n".join(curve), backend=jax.default_backend(), seconds=seconds,
    ))  # fmt: skip


REPORT = """\
# A reward model beside two rules

```
python benchmarks/reward_model.py --data FILE
```

{model}, {dtype}, LoRA of rank 8 on every linear layer, {pairs} training pairs, epochs: {epochs}, 16 pairs a
step, learning rate {rate}, prompt and longer response within {max_tokens} tokens; {heldout} held-out pairs
whose prompts nobody trained on; {seconds:.0f} s of training on {backend}. Intervals are Wilson's at 95 %.

| what decides | held-out accuracy | interval | log loss | calibration error |
|---|---|---|---|---|
{rules}

Learning curve of the one run, at pairs seen:

| pairs | seconds | held-out accuracy | interval | log loss | calibration error |
|---|---|---|---|---|---|
{curve}
"""

if __name__ == "__main__":
    main()
