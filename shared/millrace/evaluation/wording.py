"""Numbers and gates in words a person understands; the one place that rounds for people."""

from millrace.messages import MetricValue


def number(value: float) -> str:
    """A metric or bound, rounded to what matters: 0.912, 0.00042, 12.35, 12,346."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.2f}"
    if size >= 0.01 or size < 1e-12:
        return f"{value if size >= 1e-12 else 0.0:.3f}"
    return f"{value:.2g}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def interval(metric: MetricValue) -> str:
    """``[0.905, 0.919]``, or nothing when there is none."""
    if metric.low is None or metric.high is None:
        return ""
    return f"[{number(metric.low)}, {number(metric.high)}]"


def measured(metric: MetricValue) -> str:
    """``0.912 [0.905, 0.919]``."""
    return f"{number(metric.value)} {interval(metric)}".rstrip()


def bounds(minimum: float | None, maximum: float | None) -> str:
    """``≥ 0.85``, ``≤ 0.4`` or ``between 0.2 and 0.4``."""
    if minimum is not None and maximum is not None:
        return f"between {minimum:g} and {maximum:g}"
    if minimum is not None:
        return f"≥ {minimum:g}"
    return f"≤ {maximum:g}" if maximum is not None else ""
