"""A hook as a user would write it: a module-level function."""

STEPS: list[tuple[str, int, dict[str, float]]] = []


def note(stage, step, values):
    STEPS.append((stage, step, values))


def stop(stage, step, values):
    raise RuntimeError(f"{stage} went wrong at step {step}")
