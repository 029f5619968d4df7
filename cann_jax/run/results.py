"""The result of a run in words and text cells, for the terminal and the report alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cann_jax.files.console import console, grid
from cann_jax.files.numbers import decimals, percent, roughly

NOT_MEASURED = "not measured"
NO_STEP = "no step was taken: the model is the reference"
# By evaluate.policy, what stands in the place of a scale.
UNTRAINED = {
    "reference": "nothing was trained: the reference is measured against itself, drawn anew",
    "resample": "nothing was trained: among responses of the reference λ chooses",
}

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
    digits = digits_of(row)
    predicted, spread = number(row.get("predicted"), digits), row.get("predicted_interval")
    return (
        row.get("label", name) + remark,
        number(asked_change(row), digits),
        number(row["measured"], digits),
        interval(row["interval"], digits),
        predicted if spread is None else f"{predicted} {interval(spread, digits)}",
        "–" if row["before"] is None else f"{row['before']:.{digits}f} → {row['after']:.{digits}f}",
    )


def digits_of(row: Results) -> int:
    """Return the decimals of a score's numbers: more than 3 where asked and interval are both small."""
    low, high = row["interval"] or (0.0, 0.0)
    # Of the larger: a level may lie by chance at what these prompts have, and a model may not have moved.
    return decimals(max(abs(asked_change(row) or 0.0), (high - low) / 2))


def asked_change(row: Results) -> float | None:
    """Return the change that a score was asked for, over the reference on the prompts of the evaluation.

    Of a constraint on a level it is what these prompts lack; the dual's margin, which results of before have
    for it, is what those of the training do.
    """
    certificate, asked = row.get("certificate"), row.get("asked")
    if asked is None or certificate is None or row["before"] is None or row["goal"] == "margin":
        return None if asked is None else float(asked)
    return float(certificate["bound"] - row["before"])


def number(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign, which rounding does not take: only nothing is +0.000; or a dash."""
    return "–" if value is None else f"{value + 0.0:+.{digits}f}"


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """Return the ends of an interval, or a dash."""
    return "–" if ends is None else f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def summary_lines(results: Results) -> list[str]:
    """Return the numbers beside the table, one sentence each."""
    found = results["summary"]
    tokens, stopped, fluency = (
        found[key] for key in ("response_tokens", "stopped", "reference_logp_per_token")
    )
    forecast = found["kl_predicted"]
    predicted = "no forecast" if forecast is None else f"predicted {forecast:.3f} at scale 1"
    estimate = ", estimated from samples, which can fall below 0" if found["kl"] < 0 else ""
    return [
        _policy_line(results),
        f"KL to the reference: {found['kl'] + 0.0:.3f} nats a response ({predicted}){estimate}",
        f"response length: {tokens[0]:.1f} → {tokens[1]:.1f} tokens; "
        f"ended with an end token {stopped[0]:.0%} → {stopped[1]:.0%}",
        f"log-prob a token under the reference: {fluency[0]:.3f} → {fluency[1]:.3f} nats",
        *_compute_line(found.get("compute")),
    ]


def policy_of(results: Results) -> str:
    """Return ``evaluate.policy``, what was compared with the reference."""
    return str(results["summary"].get("policy", "aligned"))  # results of before have none


def multipliers_of(results: Results) -> str:
    """Return the λ that the policy has learnt or been chosen by, in words; nothing where it knows none."""
    known = {} if policy_of(results) == "reference" else results["summary"]["multipliers"]
    return ", ".join(f"{name} {value:.4g}" for name, value in known.items())


def _policy_line(results: Results) -> str:
    """Return what was trained, and the λ and β of it."""
    found, policy, known = results["summary"], policy_of(results), multipliers_of(results)
    if policy == "reference":
        return UNTRAINED[policy]
    beta, weight = f"β = {found['beta']:g}", found["reward_weight"]
    summed = "" if weight == 1 else f", weight of the reward {weight:g}"
    chosen = f"λ: {known}{summed} ({beta})" if known else beta
    return f"{chosen}; {UNTRAINED.get(policy) or _trained(results)}"


def _trained(results: Results) -> str:
    found = results["summary"]
    if "trained" in found:
        return f"trained: {found['trained']}"
    step = f", {NO_STEP}" if _took_no_step(results) else ""
    return f"scale of the trained step: {found['scale']:.3f}{step}"  # all that results of before say


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
    note = NO_STEP if _took_no_step(results) else UNTRAINED.get(policy_of(results))
    step = "" if note is None else f"; {note}"
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
    digits = digits_of(reward)
    return f"reward {number(reward['measured'], digits)} {interval(reward['interval'], digits)} · {kl}"


def verdict_lines(results: Results) -> list[str]:
    """Return the verdicts as lines."""
    return [verdict.text for verdict in verdicts(results)]


def bound_lines(results: Results) -> list[str]:
    """Return what each verdict rests on: the certificate's bounds, and the prompts that would decide."""
    return [
        f"certificate of {row.get('label', name)}: {_bounds(row, row.get('label', name))}"
        for name, row in constraint_rows(results)
        if row["certificate"] is not None
    ]


def _verdict(name: str, row: Results, step: str) -> Verdict:
    label, certificate = row.get("label", name), row["certificate"]
    if certificate is None:
        why = "since its scores exist for the training samples only"
        return Verdict(NOT_MEASURED, f"{label}: NOT MEASURED, {why}")
    bound, mean, prompts = (certificate[key] for key in ("bound", "mean", "prompts"))
    digits = _deciding_digits(row)
    asked, measured = number(row["asked"], digits), number(row["measured"], digits)
    told = {
        "margin": f"Asked {asked}, measured {measured} {interval(row['interval'], digits)}",
        "at_least": f"Asked for a mean of at least {_shown(bound, row)}, measured {_shown(mean, row)}",
        "max_unsafe": f"Asked for at most {_shown(bound, row)} unsafe, measured {_shown(mean, row)}",
    }[row["goal"]]
    verdict = certificate["verdict"]
    text = f"{label}: {verdict.upper()}. {told} on {prompts} unseen prompts{of_group(label)}{step}"
    return Verdict(verdict, text, f"certificate: {_ends(row)}")


def _deciding_digits(row: Results) -> int:
    """Return the decimals of a verdict's numbers: ``digits_of``, or more where these do not tell them apart.

    A measured 5.03% unsafe was shown as the 5.0% that were asked, and the verdict was "fails".
    """
    certificate, bound = row["certificate"], row["certificate"]["bound"]
    least = max(3, decimals(1 - bound)) if row["goal"] == "max_unsafe" else digits_of(row)
    others = [x for x in (certificate[key] for key in ("mean", "lower", "upper")) if x not in (None, bound)]
    return next(
        (d for d in range(least, least + 4) if all(round(x, d) != round(bound, d) for x in others)), least + 4
    )


def _shown(value: float, row: Results) -> str:
    """Return a value of a constraint as people ask for it: a change, a mean, or a share that is unsafe."""
    digits = _deciding_digits(row)
    if row["goal"] == "max_unsafe":
        return f"{1 - value:.{digits - 2}%}"
    return number(value, digits) if row["goal"] == "margin" else f"{value + 0.0:.{digits}f}"


def of_group(label: str) -> str:
    """Return of which group the prompts of a constraint are, by its label: only those are counted."""
    group = label.partition("@")[2]
    return f" of group {group}" if group else ""


def _ends(row: Results) -> str:
    """Return the certificate's bounds, each on its own: a two-sided interval at the same level is wider."""
    certificate, unsafe = row["certificate"], row["goal"] == "max_unsafe"
    ends = ("upper", "lower") if unsafe else ("lower", "upper")  # as shares of unsafe responses they change
    lower, upper = ("none" if certificate[end] is None else _shown(certificate[end], row) for end in ends)
    return f"one-sided bounds{' on the unsafe share' if unsafe else ''}: lower {lower}, upper {upper}"


def _bounds(row: Results, label: str) -> str:
    certificate = row["certificate"]
    line = f"{_ends(row)}, for {_shown(certificate['bound'], row)}"
    if certificate["verdict"] != "undecided":
        return line
    needed = certificate["prompts_needed"]
    if needed is None:
        return f"{line}; no number of prompts would decide at this estimate"
    count = f"about {roughly(needed):,} prompts{of_group(label)}"
    return f"{line}; {count} would decide at this estimate that it {would_be(certificate)}"


def would_be(certificate: Results) -> str:
    """Return the verdict that more prompts would bring if their mean stayed as it is."""
    return "holds" if certificate["mean"] >= certificate["bound"] else "fails"
