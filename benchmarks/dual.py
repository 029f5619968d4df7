"""Measure the cost of the dual solver and of other solvers; print Markdown.

    python benchmarks/dual.py [solve curve scale correction command large stream]

All run in one process, except the command, large tables and the stream, which run in their own; times are
medians. Ratios compare runs that alternate, so they mean more than milliseconds on a machine that does other
work too.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from cann_jax.core.exploration.curve import dual_curve
from cann_jax.core.exploration.finite_sample import correct_multipliers, kl_limit
from cann_jax.core.objective import table_objective
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual
from cann_jax.core.table import standardise

BETA, MARGIN = 0.1, 2.0


def table(prompts: int, responses: int, seed: int = 0, constraints: int = 1) -> Scores:
    """Return scores like Beaver's: spread 3 to 4 within a prompt, levels that differ by prompt.

    Constraints after the first are nearly independent of it.
    """
    rng = np.random.default_rng(seed)
    shape = (prompts, responses)
    harm, noise = rng.normal(size=shape), rng.normal(size=shape)
    reward = 4 * (0.5 * harm + 0.87 * noise) + 3 * rng.normal(size=(prompts, 1)) - 11
    safe = -3 * harm + 2 * rng.normal(size=(prompts, 1)) - 1.6
    others = [2 * rng.normal(size=shape) - 0.3 * harm for _ in range(constraints - 1)]
    values = np.stack([safe, *others], axis=-1)
    return Scores(jnp.asarray(reward, jnp.float32), jnp.asarray(values, jnp.float32))


def seconds(run: Callable[[], Any], repeats: int = 7) -> float:
    """Return the median time of a call, without its compilation."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def projected_gradient(scores: Scores) -> tuple[float, float, int]:
    """Solve by the restart schedule of the paper's code; return λ, seconds and steps.

    Rates 4, 2, .5, .0625, …; a restart ends when λ has moved less than 1e-5, or after 200 steps.
    """
    h = scores.constraints - jnp.mean(scores.constraints, axis=(0, 1)) - MARGIN

    @jax.jit
    def step(multiplier: jax.Array, rate: float) -> jax.Array:
        def value(x: jax.Array) -> jax.Array:
            logits = (scores.reward + h @ x) / BETA
            return BETA * jnp.mean(jax.nn.logsumexp(logits, axis=-1) - jnp.log(h.shape[1]))

        return jnp.maximum(multiplier - rate * jax.grad(value)(multiplier), 0)

    multiplier, steps = jnp.ones(1), 0
    jax.block_until_ready(step(multiplier, 4.0))
    start, rate = time.perf_counter(), 4.0
    for restart in range(1, 5):
        for _ in range(200):
            moved = step(multiplier, rate)
            steps += 1
            still = float(jnp.abs(moved - multiplier)[0]) < 1e-5
            multiplier = moved
            if still:
                break
        rate /= 2**restart
    return float(multiplier[0]), time.perf_counter() - start, steps


def scipy_solve(scores: Scores, margins: np.ndarray, dtype: type) -> tuple[float, float, int]:
    """Solve by scipy's L-BFGS-B on a closed form in NumPy; return the first λ, seconds and evaluations."""
    reward = np.asarray(scores.reward, dtype)
    features = np.moveaxis(np.asarray(scores.constraints, float), -1, 0)
    features = features - features.mean((1, 2), keepdims=True) - margins[:, None, None]
    h = np.ascontiguousarray(features, dtype)
    mass = np.empty_like(reward)

    def value(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        np.copyto(mass, reward)
        for multiplier, own in zip(multipliers.astype(dtype), h, strict=True):
            np.add(mass, multiplier * own, out=mass)
        np.divide(mass, dtype(BETA), out=mass)
        peak = mass.max(-1, keepdims=True)
        np.exp(np.subtract(mass, peak, out=mass), out=mass)
        total = mass.sum(-1)
        slopes = [(np.einsum("nk,nk->n", mass, own) / total).mean(dtype=float) for own in h]
        level = (np.log(total) + peak[:, 0] - np.log(h.shape[-1])).mean(dtype=float)
        return BETA * float(level), np.array(slopes)

    start = time.perf_counter()
    options = {"ftol": 1e-15 if dtype is np.float64 else 1e-9, "gtol": 1e-5 * float(h.std((1, 2)).min())}
    bounds = [(0, None)] * len(h)
    found = minimize(value, np.zeros(len(h)), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    return float(found.x[0]), time.perf_counter() - start, found.nfev


def bench_solve() -> None:
    """Time solves of 27,000 × 128 in turn, so that other work on the machine affects all alike."""
    for margins in (np.array([MARGIN]), np.array([MARGIN, 0.3, 0.3, 0.3])):
        scores = jax.block_until_ready(table(27_000, 128, constraints=len(margins)))
        print(f"\n## One solve: 27,000 prompts × 128 responses, m = {len(margins)}, β = {BETA}\n")
        runs = {
            "Newton": lambda s=scores, b=margins: ours(s, b, "newton"),
            "L-BFGS-B (jaxopt)": lambda s=scores, b=margins: ours(s, b, "lbfgsb"),
            "scipy L-BFGS-B, NumPy float64": lambda s=scores, b=margins: scipy_solve(s, b, np.float64),
            "scipy L-BFGS-B, NumPy float32": lambda s=scores, b=margins: scipy_solve(s, b, np.float32),
        }
        if len(margins) == 1:
            runs["projected gradient (paper's code)"] = lambda s=scores: projected_gradient(s)
        _compare(runs)
        if len(margins) == 1:
            bench_evaluation(scores)


def _compare(runs: dict[str, Callable[[], tuple[float, float, int]]]) -> None:
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in runs}
    for round_ in range(6):
        for name, run in runs.items():
            if round_ < 2 or not name.startswith("projected"):
                found[name].append(run())
    print("| solver | seconds | evaluations | λ | Newton is faster | L-BFGS-B is faster |")
    print("|---|---|---|---|---|---|")
    took = {name: float(np.median([seconds for _, seconds, _ in rows[1:]])) for name, rows in found.items()}
    for name, rows in found.items():
        multiplier, _, count = rows[-1]
        ratios = " | ".join(f"{took[name] / took[m]:.1f}×" for m in list(runs)[:2])
        print(f"| {name} | {took[name]:.4f} | {count} | {multiplier:.6f} | {ratios} |")


def ours(scores: Scores, margins: np.ndarray, method: str) -> tuple[float, float, int]:
    """Solve by ``solve_dual``; return λ, seconds and evaluations."""
    start = time.perf_counter()
    solution = jax.block_until_ready(solve_dual(scores, margins, BETA, method))
    return float(solution.multipliers[0]), time.perf_counter() - start, int(solution.iterations)


def bench_evaluation(scores: Scores) -> None:
    """Time the fused evaluation in units of one pass over both arrays."""
    ready_table, tilt = standardise(scores), jnp.asarray([20.0])
    fused = jax.jit(lambda t, x: table_objective(t, jnp.full(1, MARGIN), jnp.float32(BETA)).evaluate(x))
    runs = (lambda: fused(ready_table, tilt), lambda: stream_once(scores.reward, scores.constraints))
    times = np.array([[seconds(run, 1) for run in runs] for _ in range(25)])
    evaluation, one_pass = 1e3 * np.median(times, axis=0)
    print(
        f"\nOne fused evaluation (value, gradient, Hessian): {evaluation:.2f} ms; one sum over both arrays: "
        f"{one_pass:.2f} ms; {np.median(times[:, 0] / times[:, 1]):.1f} passes (median of 25 in turn)."
    )


@jax.jit
def stream_once(reward: jax.Array, constraints: jax.Array) -> jax.Array:
    """Read both arrays once."""
    return jnp.sum(reward) + jnp.sum(constraints)


def bench_curve() -> None:
    """Time 1,000 margins on 2,000 × 128."""
    scores = table(2_000, 128)
    margins = np.linspace(-2, 5, 1000)[:, None]
    took = seconds(lambda: dual_curve(scores, margins, BETA).multipliers, 3)
    found = dual_curve(scores, margins, BETA)
    print("\n## 1,000 margins on 2,000 × 128, one call\n")
    print(
        f"{took:.2f} s, {took:.2f} ms each; {found.iterations.mean():.2f} evaluations each, "
        f"{int(found.converged.sum())} converged."
    )


def bench_scale() -> None:
    """Time solves over three decades of prompts."""
    print(
        "\n## Cost against size (Newton, 128 responses)\n\n| prompts | scores | ms | ns a score |\n"
        "|---|---|---|---|"
    )
    for prompts in (100, 1_000, 10_000, 100_000):
        scores = table(prompts, 128)
        took = seconds(lambda scores=scores: solve_dual(scores, MARGIN, BETA, "newton"), 5)
        count = 2 * prompts * 128
        print(f"| {prompts} | {count} | {1e3 * took:.2f} | {1e9 * took / count:.1f} |")


def bench_correction() -> None:
    """Measure the correction on the Gaussian oracle: correlation −.5, β = .5, b = 1, truth 1."""
    print("\n## Finite-K correction against the Gaussian oracle (truth 1, 4,000 prompts, 5 seeds)\n")
    print("| K | plug-in error | corrected | RMS errors, ratio | worsened | KL / ln K |")
    print("|---|---|---|---|---|---|")
    for responses in (32, 64, 128, 256, 512):
        plain, corrected, shares = np.array([_oracle(responses, seed) for seed in range(5)]).T
        ratio = np.sqrt((corrected**2).mean() / (plain**2).mean())
        worse = int((np.abs(corrected) > np.abs(plain)).sum())
        print(
            f"| {responses} | {plain.mean():+.4f} | {corrected.mean():+.4f} | {ratio:.2f} | {worse} of 5 | "
            f"{shares.mean():.2f} |"
        )


def _oracle(responses: int, seed: int) -> tuple[float, float, float]:
    """Return the errors of the plug-in and of the corrected λ, and KL as a share of ln K."""
    rng = np.random.default_rng(seed)
    g, noise = rng.normal(size=(2, 4000, responses)).astype(np.float32)
    scores = Scores(
        jnp.asarray(-0.5 * g + 0.75**0.5 * noise), jnp.asarray(g)[..., None], baseline=jnp.zeros(1)
    )
    solution = solve_dual(scores, 1.0, 0.5, "newton")
    found = correct_multipliers(scores, np.array([1.0]), 0.5, solution)
    share = float(kl_limit(scores, solution).share)
    return float(solution.multipliers[0]) - 1, float(found.multipliers[0]) - 1, share


def bench_command() -> None:
    """Time the command on 1,000 × 128 at its first starts."""
    import pyarrow.parquet as pq

    from cann_jax.analysis.example import example_table

    print("\n## The command on 1,000 × 128, curve, bootstrap and picture included\n")
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(example_table(1000, 128), f"{folder}/scores.parquet")
        flags = [
            "--scores",
            f"{folder}/scores.parquet",
            "--margin",
            "safe=1",
            "--beta",
            "0.5",
            "--out",
            f"{folder}/out",
        ]
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache", "JAX_PLATFORMS": "cpu"}
        for start in ("first", "second", "third"):
            took, used = run_child(flags, environment)
            print(f"{start} start: {took:.2f} s (CPU {used:.2f} s)")


def run_child(flags: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run the command; return wall and CPU seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cann_jax.dual", *flags],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bench_large() -> None:
    """Measure the command on 10⁶ prompts × 32 responses, or of as many prompts as ``PROMPTS`` says."""
    prompts = int(float(os.environ.get("PROMPTS", "1e6")))
    print(f"\n## The command on {prompts:.0e} × 32, curve, bootstrap and picture included\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        write_large(path, prompts * 32, 32)
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        child = [sys.executable, __file__, "child", str(path), "--beta", "0.5", "--out", f"{folder}/out"]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(child, check=True, capture_output=True, text=True, env=environment)
        took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{took:.1f} s (CPU {used:.1f} s), peak memory {done.stdout.split()[-1]} MB")


def bench_stream() -> None:
    """Measure time and peak memory on tables of 10⁷ and 10⁸ scores, or of the sizes in ``SCORES``."""
    print(
        "\n## Streamed from Parquet\n\n| scores | file, MB | seconds | peak memory, MB |\n|---|---|---|---|"
    )
    for scores in [int(float(x)) for x in os.environ.get("SCORES", "1e7,1e8").split(",")]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.parquet"
            write_large(path, scores // 2)
            child = [sys.executable, __file__, "child", str(path), "--beta", str(BETA), "--stream"]
            begun = time.perf_counter()
            done = subprocess.run(
                child, check=True, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
            )
            took, peak = time.perf_counter() - begun, done.stdout.split()[-1]
            print(f"| {scores:.0e} | {path.stat().st_size / 1e6:.0f} | {took:.1f} | {peak} |")


def write_large(path: Path, rows: int, responses: int = 128) -> None:
    """Write a sorted long table in pieces, of which three repeat, as random numbers take long."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pieces = [table(8192, responses, seed) for seed in range(3)]
    schema = pa.schema([("prompt", pa.int32()), ("reward", pa.float32()), ("safe", pa.float32())])
    options = {"compression": "none", "use_dictionary": ["prompt"]}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for first in range(0, rows // responses, 8192):
            piece = pieces[first // 8192 % 3]
            count = min(8192, rows // responses - first)
            prompt = np.repeat(np.arange(first, first + count, dtype=np.int32), responses)
            columns = [np.asarray(x)[:count].ravel() for x in (piece.reward, piece.constraints)]
            writer.write_table(pa.table([prompt, *columns], schema=schema))


def child(path: str, *flags: str) -> None:
    """Run the command in this process and print its peak resident memory in MB."""
    from cann_jax.dual import main

    main(["--scores", path, "--margin", f"safe={MARGIN}", *flags])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


BENCHMARKS = {
    "solve": bench_solve,
    "curve": bench_curve,
    "scale": bench_scale,
    "correction": bench_correction,
    "command": bench_command,
    "large": bench_large,
    "stream": bench_stream,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        for name in sys.argv[1:] or BENCHMARKS:
            BENCHMARKS[name]()
            load = " ".join(f"{x:.1f}" for x in os.getloadavg())
            print(f"\n(load average while `{name}` ran: {load})", flush=True)
