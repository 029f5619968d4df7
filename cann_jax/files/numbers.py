"""Numbers as people write them."""

import numpy as np


def percent(share: float) -> str:
    """Return a share in percent with the digits that it has: 0.95 is 95%, and 0.995 is 99.5%, not 100%."""
    return f"{100 * share:g}%"


def counted(count: int, what: str) -> str:
    """Return a count of things: 1 prompt, 12,000 prompts."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def roughly(count: int) -> int:
    """Return a count with two digits, which are more than an estimate of it has."""
    return int(float(f"{count:.2g}"))


def decimals(*sizes: float | None, least: int = 3) -> int:
    """Return how many decimals show two digits of the smallest of these sizes, where ``least`` do not.

    Nothing has no digits, and float32 none beyond the sixth of the largest.
    """
    # Rounded to two digits first: 0.0999999 is 0.10.
    places = [int(f"{abs(size):.1e}".partition("e")[2]) for size in sizes if size and np.isfinite(size)]
    return max(least, min(1 - min(places), 5 - max(places))) if places else least


def apart(first: float, second: float, least: int = 4) -> tuple[str, str]:
    """Return two numbers with ``least`` digits, or as many more as tell them apart."""
    texts = [(f"{first:.{digits}g}", f"{second:.{digits}g}") for digits in range(least, 10)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[0])


def with_interval(value: float, low: float, high: float) -> str:
    """Return a number and its interval with the digits that its width supports: 2 to 5 of the value's.

    The last digit is a hundredth to a tenth of the width.
    """
    if not np.isfinite([value, low, high]).all() or value == 0 or high <= low:
        return f"{value:.5g} [{low:.4g}, {high:.4g}]"
    first = int(np.floor(np.log10(abs(value))))
    place = int(np.clip(np.floor(np.log10((high - low) / 10)), first - 4, first - 1))
    decimals = max(0, -place)

    def shown(number: float) -> str:
        rounded = round(number, -place) + 0.0
        # 0.12 [0.00, 0.30] read as if λ* might be 0, where the low end was .00268.
        return f"{rounded:.{decimals}f}" if rounded or not number else f"{number:.2g}"

    return f"{shown(value)} [{shown(low)}, {shown(high)}]"
