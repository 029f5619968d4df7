"""What to do next, where a run does not hold, is undecided, or has not ended."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from cann_jax.config.constraint import Requirement
from cann_jax.config.run import RunConfig
from cann_jax.files.numbers import decimals, roughly
from cann_jax.reporting.findings import Findings
from cann_jax.run.outputs import meets_aim
from cann_jax.run.results import NOT_MEASURED, constraint_rows, number, of_group, would_be
from cann_jax.run.trained import reads_multipliers


class Terms(NamedTuple):
    """What a constraint asks, in the words of its own setting.

    Attributes:
        asked: What it asks.
        short: That it is not reached.
        less: How to ask for less.
        more: How to ask for more.
    """

    asked: str
    short: str
    less: str
    more: str


def terms_of(constraint: Requirement) -> Terms:
    """Return the words of a constraint's margin or level."""
    if constraint.goal == "at_least":
        asked = f"at_least {constraint.at_least:g}"
        return Terms(
            asked, f"falls short of {asked}", "lower at_least", "ask for more than it (raise at_least)"
        )
    if constraint.goal == "max_unsafe":
        asked = f"max_unsafe {constraint.max_unsafe:g}"
        more = "ask for more than it (lower max_unsafe)"
        return Terms(asked, f"has more unsafe responses than {asked}", "raise max_unsafe", more)
    return Terms("the margin", "falls short of the margin", "lower the margin", "ask for more than it")


def next_steps(findings: Findings) -> list[str]:
    """Return what to do, a sentence each; nothing where every constraint holds."""
    if findings.results is None:
        return [_unfinished(findings)]
    steps: list[str] = []
    for name, row in constraint_rows(findings.results):
        steps += _steps(findings, name, row)
    return steps


def _unfinished(findings: Findings) -> str:
    run, dual = findings.run, findings.dual
    if findings.at_work is not None:
        return f"Wait: another process is {findings.at_work}. Write the report again to see more."
    missing = [stage.name for stage in run.stages if stage.name not in findings.commits]
    unsolved = dual if "dual" in missing else None  # written, and what follows it was refused
    if unsolved is not None and _out_of_reach(unsolved):
        reach = unsolved["attainable"] if _by_features(unsolved) else None
        most_of_each = unsolved["largest_margin"] if reach is None else reach["ceiling"]
        largest = zip(unsolved["constraints"], unsolved["margins"], map(float, most_of_each), strict=True)
        parts = [
            f"{name} asks {number(asked, digits)}, of {number(most, digits)} at most"
            for name, asked, most in largest
            for digits in [decimals(asked, most)]
        ]
        return (
            f"The margins are out of reach ({'; '.join(parts)}): {_less(run.config)}, and start train again."
        )
    if unsolved is not None and not unsolved["converged"]:
        less = _less(run.config)
        return f"λ* was not found to tolerance: raise dual.beta or {less}, and start train again."
    return f"Start train again with the same settings to go on: {', '.join(missing)} are still to run."


def _out_of_reach(dual: Mapping[str, Any]) -> bool:
    """Return whether the dual has proven that no λ that the run could take meets the margins."""
    return dual["feasible"] == "no" or (_by_features(dual) and not dual["attainable"]["reachable"])


def _by_features(dual: Mapping[str, Any]) -> bool:
    """Return whether λ is for what the features tell, so that their ceiling is the bound that counts."""
    return dual.get("chosen", {}).get("by") == "attainable" and dual.get("attainable") is not None


def _less(config: RunConfig) -> str:
    """Return how to ask for less of all constraints."""
    return " or ".join(dict.fromkeys(terms_of(each).less for each in config.constraints.values()))


def _steps(findings: Findings, name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to do about one constraint."""
    config, label, certificate = findings.run.config, row.get("label", name), row["certificate"]
    if name not in config.constraints:  # which was changed since
        return
    terms = terms_of(config.constraints[name])
    if certificate is None:
        yield f"{label} was {NOT_MEASURED}: give it a scorer that scores new responses."
    elif certificate["verdict"] == "undecided" and certificate["prompts_needed"] is not None:
        yield (
            f"{label}: evaluate on about {roughly(certificate['prompts_needed']):,} held-out "
            f"prompts{of_group(label)} instead of {certificate['prompts']} (prompts.heldout); at this "
            f"estimate they would decide that it {would_be(certificate)}."
        )
    elif certificate["verdict"] == "undecided":
        yield f"{label}: {_undecidable(config, label, certificate, terms)}."
    if config.evaluate.policy == "reference":
        return  # it is measured to be told from, and is to improve nothing
    if certificate is not None and certificate["verdict"] != "holds" and _falls_short(certificate):
        yield f"{label} {terms.short}: {_remedy(findings, label, terms)}."


def _undecidable(config: RunConfig, label: str, certificate: Mapping[str, Any], terms: Terms) -> str:
    """Return why no number of prompts is known to decide, and what to do."""
    prompts, of = certificate["prompts"], of_group(label)
    if prompts < 2:
        return f"one prompt{of} decides nothing; evaluate on more (prompts.heldout)"
    if certificate["lower"] is None and certificate["upper"] is None:
        return (
            f"all {prompts} prompts{of} gave the same, which tells nothing of others; "
            "evaluate on more varied ones (prompts.heldout), or give the scores' range (clip)"
        )
    further = "train for more than it"
    if config.calibrated and config.calibrate.aim == "margin":
        further += " (calibrate.aim certificate does)"
    return f"the estimate is too near {terms.asked} for any number of prompts; {terms.less}, or {further}"


def _falls_short(certificate: Mapping[str, Any]) -> bool:
    return bool(certificate["mean"] < certificate["bound"])


def _remedy(findings: Findings, label: str, terms: Terms) -> str:
    """Return what to change for a larger improvement of one constraint."""
    config = findings.run.config
    if not config.trains:
        return f"nothing was trained; {terms.more}, or give a larger λ (dual.multipliers)"
    if above := _above_ceiling(findings, label, terms):
        return above
    calibration = None if findings.rounds else findings.calibration  # rounds go on from what it kept
    if calibration is not None and not calibration["met"]:
        return _no_scale(config, calibration, terms)
    if any(log.health is not None and log.health.warnings for log in findings.trainings):
        return "the training warned; do first what its warnings say, below"
    if not config.calibrated and config.align.lora is not None and not findings.rounds:
        return f"set prompts.calibration, by which the trained step is scaled until it meets {terms.asked}"
    if calibration is not None:
        return _beyond_aim(config, calibration, terms)
    return _beyond(config, terms)


def _above_ceiling(findings: Findings, label: str, terms: Terms) -> str | None:
    """Return that a constraint asks for more than λ can reach by what the model can tell; else None."""
    dual = findings.dual
    reach = None if dual is None else dual.get("attainable")
    if dual is None or reach is None or label not in dual["constraints"]:
        return None
    index = dual["constraints"].index(label)
    asked, ceiling = float(dual["margins"][index]), float(reach["ceiling"][index])
    if asked <= ceiling or not reads_multipliers(findings.run.config):
        return None
    digits = decimals(asked, ceiling)
    return (
        f"the training prompts ask for {number(asked, digits)} over the reference, above the "
        f"{number(ceiling, digits)} that this model can tell; {terms.less}, or sample more prompts"
    )


def _no_scale(config: RunConfig, calibration: Mapping[str, Any], terms: Terms) -> str:
    if calibration["scale"] == 0:
        return f"no scale of the trained step came nearer; train on more prompts, or {terms.less}"
    limits = f"kl_limit ({config.calibrate.kl_limit:g}) and calibrate.largest ({config.calibrate.largest:g})"
    found = f"{calibration['scale']:.3g} was kept, at KL {calibration['kl']:.2f}"
    further = _beyond(config, terms)
    return f"no scale within calibrate.{limits} met the aim ({found}); raise them, or {further}"


def _beyond_aim(config: RunConfig, calibration: Mapping[str, Any], terms: Terms) -> str:
    """Return what to change where the calibration met its aim, after which no round would be run."""
    draws = "raise calibrate.responses or give more prompts.calibration, which decide the scale"
    if not meets_aim(calibration):
        return f"raise calibrate.tries, so that a sample confirms the scale, or {_beyond(config, terms)}"
    if config.calibrate.aim == "margin":
        return f"{draws}, or set calibrate.aim to certificate, which goes further"
    return f"{draws}, or {terms.more}"


def _beyond(config: RunConfig, terms: Terms) -> str:
    """Return what to set so that a run goes on from where it is."""
    if config.align.dial:
        return "set align.dial to false, which trains for these margins alone"
    if not reads_multipliers(config):
        return "train on more pairs"
    further = replace(config, rounds=config.rounds + 1)
    if any(further.conflicts()):
        return f"{terms.more}, or train on more prompts"
    return f"set rounds to {further.rounds}, which go on from here with λ raised by what is missing"
