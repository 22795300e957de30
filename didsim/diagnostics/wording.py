"""How numbers are put into words, the same in every sentence and table."""

from didsim.diagnostics.findings import Number


def short(x: float) -> str:
    """A number with three digits."""
    size = f"{abs(x):,.0f}" if 1000 <= abs(x) < 1e7 else f"{abs(x):.3g}"
    return f"−{size}" if x < 0 else size


def signed(x: float) -> str:
    """A number with three digits and its sign."""
    return ("+" if x > 0 else "") + short(x)


def nats(x: float) -> str:
    """The size of a number of nats."""
    return f"{short(abs(x))} nats"


def value_of(number: Number) -> str:
    """A number with its unit."""
    return f"{short(number.value)} {number.unit}".strip()


def interval_of(number: Number) -> str:
    """An interval, or why there is none."""
    if number.low is None or number.high is None:
        return f"none: {number.no_interval}"
    return f"{short(number.low)} to {short(number.high)}"


def said(number: Number) -> str:
    """A number with its unit and interval, in a sentence.

    Examples:
        >>> said(Number(value=-11.84, unit="nats", low=-12.31, high=-11.2))
        '−11.8 nats (95%: −12.3 to −11.2)'
    """
    value = short(number.value) if number.unit == "share" else value_of(number)
    if number.low is None or number.high is None:
        return f"{value} (no interval: {number.no_interval})"
    return f"{value} (95%: {interval_of(number)})"


def percent(share: Number) -> str:
    if share.low is None or share.high is None:
        return f"{share.value:.1%}"
    return f"{share.value:.1%} (95%: {share.low:.1%} to {share.high:.1%})"
