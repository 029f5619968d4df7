"""Numbers as people write them."""


def percent(share: float) -> str:
    """Return a share in percent with the digits that it has: 0.95 is 95%, and 0.995 is 99.5%, not 100%."""
    return f"{100 * share:g}%"
