"""The result of a run in words and text cells, for the terminal and the report alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cann_jax.files.console import console, grid
from cann_jax.files.numbers import percent

NOT_MEASURED = "not measured"
NO_STEP = "no step was taken: the model is the reference"

Results = Mapping[str, Any]


class Verdict(NamedTuple):
    """What a constraint's evaluation has shown: ``holds``, ``fails``, ``undecided`` or NOT_MEASURED.

    ``beside`` is what belongs beside the text: the certificate's bound, and what was paid.
    """

    kind: str
    text: str
    beside: str = ""


def print_results(results: Results) -> None:
    """Print the table of predicted and measured improvements, the lines beside it, and the verdict last."""
    out, found = console(), results["summary"]
    title = f"held-out: {found['prompts']} prompts × {found['responses']} responses"
    out.print(grid(headings(results), result_rows(results), title))
    for line in (*summary_lines(results), *bound_lines(results), *verdict_lines(results)):
        out.print(line, soft_wrap=True)


def headings(results: Results) -> tuple[str, ...]:
    """Return the headings of ``result_rows``."""
    return ("score", "asked", "measured", "interval", predicted_of([results]), "before → after")


def predicted_of(runs: Iterable[Results]) -> str:
    """Return the heading of what was predicted, which is of the whole step, whatever scale was chosen."""
    return "predicted" if all(each["summary"]["scale"] == 1 for each in runs) else "predicted at scale 1"


def result_rows(results: Results) -> list[tuple[str, ...]]:
    """Return one row a constraint, then the reward, then what was only measured."""
    also = results["also"].keys()
    return [
        _cells(name, row, " (measured only)" if name in also else "") for name, row in score_rows(results)
    ]


def score_rows(results: Results) -> list[tuple[str, Results]]:
    """Return what is known of each score, by name, in the order of the tables."""
    return [*constraint_rows(results), ("reward", results["reward"]), *results["also"].items()]


def constraint_rows(results: Results) -> list[tuple[str, Results]]:
    """Return what is known of each constraint, by name."""
    return [(name, row) for name, row in results.items() if name not in ("summary", "also", "reward")]


def _cells(name: str, row: Results, remark: str = "") -> tuple[str, ...]:
    predicted, spread = number(row.get("predicted")), row.get("predicted_interval")
    return (
        row.get("label", name) + remark,
        number(asked_change(row)),
        number(row["measured"]),
        "–" if row["interval"] is None else interval(row["interval"]),
        predicted if spread is None else f"{predicted} {interval(spread)}",
        "–" if row["before"] is None else f"{row['before']:.3f} → {row['after']:.3f}",
    )


def asked_change(row: Results) -> float | None:
    """Return the change that a score was asked for, over the reference on the prompts of the evaluation.

    Of a constraint on a level it is what these prompts lack; the dual's margin is what those of the training
    do.
    """
    certificate, asked = row.get("certificate"), row.get("asked")
    if asked is None or certificate is None or row["before"] is None or row["goal"] == "margin":
        return None if asked is None else float(asked)
    return float(certificate["bound"] - row["before"])


def number(value: float | None) -> str:
    """Return a difference with its sign, of which a rounded nothing has the plus; or a dash."""
    return "–" if value is None else f"{round(value, 3) + 0.0:+.3f}"


def interval(ends: Sequence[float]) -> str:
    """Return the ends of an interval."""
    return f"[{number(ends[0])}, {number(ends[1])}]"


def summary_lines(results: Results) -> list[str]:
    """Return the numbers beside the table, one sentence each."""
    found = results["summary"]
    tokens, stopped, fluency = (
        found[key] for key in ("response_tokens", "stopped", "reference_logp_per_token")
    )
    multipliers = ", ".join(f"{name} {value:.4g}" for name, value in found["multipliers"].items())
    weight = found["reward_weight"]
    summed = "" if weight == 1 else f", weight of the reward {weight:g}"
    predicted = "no forecast" if found["kl_predicted"] is None else f"predicted {found['kl_predicted']:.3f}"
    step = f", {NO_STEP}" if _took_no_step(results) else ""
    return [
        f"λ: {multipliers}{summed} (β = {found['beta']:g}); scale of the trained step: "
        f"{found['scale']:.3f}{step}",
        f"KL to the reference: {found['kl']:.3f} nats a response ({predicted} at scale 1)",
        f"response length: {tokens[0]:.1f} → {tokens[1]:.1f} tokens; "
        f"ended with an end token {stopped[0]:.0%} → {stopped[1]:.0%}",
        f"log-prob a token under the reference: {fluency[0]:.3f} → {fluency[1]:.3f} nats",
        *_compute_line(found.get("compute")),
    ]


def _compute_line(found: Results | None) -> list[str]:
    if found is None or found["seconds"] is None:  # a stage that was taken over has counted nothing
        return []
    return [
        f"compute of all stages: {policies_trained(found['policy_rounds'])} "
        f"({found['training_flops']:.3g} FLOPs), {found['generated_tokens']:,} tokens generated, "
        f"{found['seconds']:.0f} s"
    ]


def policies_trained(count: int) -> str:
    """Return how many policies were trained, in words."""
    return f"{count} {'training' if count == 1 else 'trainings'} of a policy"


def _took_no_step(results: Results) -> bool:
    return bool(results["summary"]["scale"] == 0)


def verdicts(results: Results) -> list[Verdict]:
    """Return a verdict on each constraint ("relevance: HOLDS. Asked …"), and one on all of several.

    The price is beside the last of them.
    """
    constraints, found = constraint_rows(results), results["summary"]
    step = f"; {NO_STEP}" if _took_no_step(results) else ""
    each = [_verdict(name, row, step) for name, row in constraints]
    if len(constraints) > 1:
        text = f"all constraints together, at {percent(found['confidence'])}: {found['verdict'].upper()}"
        each.append(Verdict(found["verdict"], text))
    last = each.pop()
    return [*each, last._replace(beside=" · ".join(filter(None, (last.beside, _price(results)))))]


def _price(results: Results) -> str:
    """Return what the policy has cost: the change of the reward with its interval, and the KL."""
    reward, kl = results["reward"], f"KL {results['summary']['kl']:.3f} nats a response"
    if reward["measured"] is None:
        return kl
    return f"reward {number(reward['measured'])} {interval(reward['interval'])} · {kl}"


def verdict_lines(results: Results) -> list[str]:
    """Return the verdicts as lines."""
    return [verdict.text for verdict in verdicts(results)]


def bound_lines(results: Results) -> list[str]:
    """Return what each verdict rests on: the certificate's bounds, and the prompts that would decide."""
    return [
        f"certificate of {row.get('label', name)}: {_bounds(row['certificate'])}"
        for name, row in constraint_rows(results)
        if row["certificate"] is not None
    ]


def _verdict(name: str, row: Results, step: str) -> Verdict:
    label, certificate = row.get("label", name), row["certificate"]
    if certificate is None:
        why = "since its scores exist for the training samples only"
        return Verdict(NOT_MEASURED, f"{label}: NOT MEASURED, {why}")
    bound, mean, prompts = (certificate[key] for key in ("bound", "mean", "prompts"))
    told = {
        "margin": (
            f"Asked {number(row['asked'])}, measured {number(row['measured'])} {interval(row['interval'])}"
        ),
        "at_least": f"Asked for a mean of at least {number(bound)}, measured {number(mean)}",
        "max_unsafe": f"Asked for at most {1 - bound:.1%} unsafe, measured {1 - mean:.1%}",
    }[row["goal"]]
    verdict = certificate["verdict"]
    text = f"{label}: {verdict.upper()}. {told} on {prompts} unseen prompts{step}"
    return Verdict(verdict, text, f"certificate: {_ends(certificate)}")


def _ends(certificate: Results) -> str:
    lower, upper = (
        "none" if certificate[end] is None else number(certificate[end]) for end in ("lower", "upper")
    )
    return f"lower bound {lower}, upper bound {upper}"


def _bounds(certificate: Results) -> str:
    line = f"{_ends(certificate)}, for {number(certificate['bound'])}"
    if certificate["verdict"] != "undecided":
        return line
    needed = certificate["prompts_needed"]
    count = "no number of prompts" if needed is None else f"about {needed} prompts"
    return f"{line}; {count} would decide at this estimate"
