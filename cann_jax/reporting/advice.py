"""What to do next, where a run does not hold, is undecided, or has not ended."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cann_jax.config.run import RunConfig
from cann_jax.files.numbers import decimals
from cann_jax.reporting.findings import Findings
from cann_jax.run.results import NOT_MEASURED, constraint_rows, number


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
        return f"The margins are out of reach ({'; '.join(parts)}): lower them, and start train again."
    if unsolved is not None and not unsolved["converged"]:
        return "λ* was not found to tolerance: raise dual.beta or lower the margins, and start train again."
    return f"Start train again with the same settings to go on: {', '.join(missing)} are still to run."


def _out_of_reach(dual: Mapping[str, Any]) -> bool:
    """Return whether the dual has proven that no λ that the run could take meets the margins."""
    return dual["feasible"] == "no" or (_by_features(dual) and not dual["attainable"]["reachable"])


def _by_features(dual: Mapping[str, Any]) -> bool:
    """Return whether λ is for what the features tell, so that their ceiling is the bound that counts."""
    return dual.get("chosen", {}).get("by") == "attainable" and dual.get("attainable") is not None


def _steps(findings: Findings, name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to do about one constraint."""
    label, certificate = row.get("label", name), row["certificate"]
    if certificate is None:
        yield f"{label} was {NOT_MEASURED}: give it a scorer that scores new responses."
    elif certificate["verdict"] == "undecided" and certificate["prompts_needed"] is not None:
        yield (
            f"{label}: evaluate on about {certificate['prompts_needed']} held-out prompts instead of "
            f"{certificate['prompts']} (prompts.heldout); at this estimate they would decide."
        )
    elif certificate["verdict"] == "undecided":
        yield f"{label}: {_undecidable(findings.run.config, certificate)}."
    if findings.run.config.evaluate.policy == "reference":
        return  # it is measured to be told from, and is to improve nothing
    if certificate is not None and certificate["verdict"] != "holds" and _falls_short(certificate):
        yield f"{label} falls short of the margin: {_remedy(findings, label)}."


def _undecidable(config: RunConfig, certificate: Mapping[str, Any]) -> str:
    """Return why no number of prompts is known to decide, and what to do."""
    if certificate["prompts"] < 2:
        return "one prompt decides nothing; evaluate on more (prompts.heldout)"
    if certificate["lower"] is None and certificate["upper"] is None:
        return (
            f"all {certificate['prompts']} prompts gave the same, which tells nothing of others; "
            "evaluate on more varied ones (prompts.heldout), or give the scores' range (clip)"
        )
    further = "train for more than it"
    if config.calibrated and config.calibrate.aim == "margin":
        further += " (calibrate.aim certificate does)"
    return f"the estimate is too near the margin for any number of prompts; lower the margin, or {further}"


def _falls_short(certificate: Mapping[str, Any]) -> bool:
    return bool(certificate["mean"] < certificate["bound"])


def _remedy(findings: Findings, label: str) -> str:
    """Return what to change for a larger improvement of one constraint."""
    config, dual, calibration = findings.run.config, findings.dual, findings.calibration
    if not config.trains:
        return "nothing was trained; ask for more than it, or give a larger λ (dual.multipliers)"
    if dual is not None and label in dual["constraints"]:
        index, reach = dual["constraints"].index(label), dual.get("attainable")
        if reach is not None and dual["margins"][index] > reach["ceiling"][index]:
            ceiling = float(reach["ceiling"][index])
            told = number(ceiling, decimals(ceiling))
            return f"it is above what this model can tell, {told}; lower it, or sample more prompts"
    if calibration is not None and not calibration["met"]:
        return _no_scale(config, calibration)
    if any(log.health is not None and log.health.warnings for log in findings.trainings):
        return "the training warned; do first what its warnings say, below"
    if not config.calibrated and config.align.lora is not None:
        return "set prompts.calibration, by which the trained step is scaled until it meets the margin"
    if config.calibrated:
        return f"raise calibrate.responses, whose draws decide the scale, or {_beyond(config)}"
    return _beyond(config)


def _no_scale(config: RunConfig, calibration: Mapping[str, Any]) -> str:
    if calibration["scale"] == 0:
        return "no scale of the trained step came nearer; train on more prompts, or lower the margin"
    limits = f"kl_limit ({config.calibrate.kl_limit:g}) and calibrate.largest ({config.calibrate.largest:g})"
    found = f"{calibration['scale']:.3g} was kept, at KL {calibration['kl']:.2f}"
    return f"no scale within calibrate.{limits} met the aim ({found}); raise them, or {_beyond(config)}"


def _beyond(config: RunConfig) -> str:
    """Return what to set so that a run goes on from where it is."""
    if config.align.dial:
        return "set align.dial to false, which trains for these margins alone"
    further = replace(config, rounds=config.rounds + 1)
    if any(further.conflicts()):
        return "ask for more than the margin, or train on more prompts"
    return f"set rounds to {further.rounds}, which go on from here with λ raised by what is missing"
