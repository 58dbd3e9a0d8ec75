"""`aws.sns.Notifier` in memory."""

from dataclasses import dataclass, field

from millrace.aws.sns import Notice


@dataclass
class FakeNotifier:
    """`Notifier` that keeps what it was told."""

    notices: list[Notice] = field(default_factory=list)

    def notify(self, notice: Notice) -> None:
        """See `Notifier.notify`."""
        self.notices.append(notice)
