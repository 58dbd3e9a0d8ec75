"""What was counted and is not written to the metrics yet.

A metric of prometheus_client takes a lock, and with several workers writes to a file, at each count. Per
request that is a dozen times; so they are kept as plain numbers of the event loop's thread, and written
when somebody wants to read them.
"""

from bisect import bisect_left

from prometheus_client import Counter, Histogram


class Tallied(Histogram):
    """A histogram that takes many observations at once."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of its buckets, infinity last."""
        return tuple(self._upper_bounds)

    def add(self, counts: list[int], total: float) -> None:
        """Observes values.

        Args:
            counts: How many are in each bucket and not in the one before.
            total: Their sum.
        """
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Count:
    """What a counter is still to be told.

    Args:
        counter: With its labels.
    """

    __slots__ = ("_counter", "n")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.n = 0

    def write(self) -> None:
        """Tells the counter."""
        if self.n:
            self._counter.inc(self.n)
            self.n = 0


class Observations:
    """What a histogram is still to be told.

    Args:
        histogram: With its labels.
    """

    __slots__ = ("_bounds", "_counts", "_histogram", "_total")

    def __init__(self, histogram: Tallied) -> None:
        self._histogram = histogram
        self._bounds = histogram.bounds
        self._counts = [0] * len(self._bounds)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Takes a value, which is a number."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def write(self) -> None:
        """Tells the histogram."""
        if any(self._counts):
            self._histogram.add(self._counts, self._total)
            self._counts = [0] * len(self._bounds)
            self._total = 0.0
