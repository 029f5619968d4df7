"""What to do next, where a run does not hold, is undecided, or has not ended."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cann_jax.config.run import RunConfig
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
    missing = [stage.name for stage in run.stages if stage.name not in findings.commits]
    unsolved = dual if "dual" in missing else None  # written, and what follows it was refused
    if unsolved is not None and _out_of_reach(unsolved):
        largest = zip(unsolved["constraints"], unsolved["margins"], _ceilings(unsolved), strict=True)
        parts = [f"{name} asks {number(asked)}, of {number(most)} at most" for name, asked, most in largest]
        return f"The margins are out of reach ({'; '.join(parts)}): lower them, and start train again."
    if unsolved is not None and not unsolved["converged"]:
        return "λ* was not found to tolerance: raise dual.beta or lower the margins, and start train again."
    return f"Start train again with the same settings to go on: {', '.join(missing)} are still to run."


def _out_of_reach(dual: Mapping[str, Any]) -> bool:
    """Return whether the dual has proven that no λ that the run could take meets the margins."""
    by_features = dual.get("chosen", {}).get("by") == "attainable" and dual.get("attainable") is not None
    return dual["feasible"] == "no" or bool(by_features and not dual["attainable"]["reachable"])


def _ceilings(dual: Mapping[str, Any]) -> list[float]:
    reach = dual.get("attainable")
    return [float(value) for value in (dual["largest_margin"] if reach is None else reach["ceiling"])]


def _steps(findings: Findings, name: str, row: Mapping[str, Any]) -> Iterator[str]:
    label, certificate = row.get("label", name), row["certificate"]
    if certificate is None:
        yield f"{label} was {NOT_MEASURED}: give it a scorer that scores new responses."
    elif certificate["verdict"] == "undecided" and certificate["prompts_needed"] is not None:
        yield (
            f"{label}: evaluate on about {certificate['prompts_needed']} held-out prompts instead of "
            f"{certificate['prompts']} (prompts.heldout); at this estimate they would decide."
        )
    elif certificate["verdict"] == "undecided":
        yield (
            f"{label}: the estimate is too near the margin for any number of prompts to decide; lower the "
            "margin, or train for more than it (calibrate.aim certificate does)."
        )
    if certificate is not None and certificate["verdict"] != "holds" and _falls_short(certificate):
        yield f"{label} falls short of the margin: {_remedy(findings, label)}."


def _falls_short(certificate: Mapping[str, Any]) -> bool:
    return bool(certificate["mean"] < certificate["bound"])


def _remedy(findings: Findings, label: str) -> str:
    """Return what to change for a larger improvement of one constraint."""
    config, dual, calibration = findings.run.config, findings.dual, findings.calibration
    if not config.trains:
        return f"evaluate.policy {config.evaluate.policy} trains nothing; set it to aligned"
    if dual is not None and label in dual["constraints"]:
        index = dual["constraints"].index(label)
        asked, most = float(dual["margins"][index]), _ceilings(dual)[index]
        if asked > most:
            return f"it is above what this model can reach, {number(most)}; lower it, or sample more prompts"
    if any(log.health is not None and log.health.warnings for log in findings.trainings):
        return "the training warned; do first what its warnings say, below"
    if not config.calibrated and config.align.lora is not None:
        return "set prompts.calibration, by which the trained step is scaled until it meets the margin"
    if calibration is not None and not calibration["met"]:
        limits = "calibrate.kl_limit ({0.kl_limit:g}) and calibrate.largest ({0.largest:g})"
        found = limits.format(config.calibrate)
        return f"no scale within {found} met it; raise them, or {_beyond(config)}"
    if config.calibrated:
        return f"raise calibrate.responses, whose draws decide the scale, or {_beyond(config)}"
    return _beyond(config)


def _beyond(config: RunConfig) -> str:
    """Return what to set so that a run goes on from where it is."""
    if config.align.dial:
        return "set align.dial to false, which trains for these margins alone"
    further = replace(config, rounds=config.rounds + 1)
    if any(further.conflicts()):
        return "ask for more than the margin, or train on more prompts"
    return f"set rounds to {further.rounds}, which go on from here with λ raised by what is missing"
