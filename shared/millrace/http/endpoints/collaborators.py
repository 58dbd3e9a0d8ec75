"""What the endpoints of the registry's app work with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from millrace.aws.sns import Notifier
from millrace.aws.stepfunctions import StepProgress
from millrace.http import operations
from millrace.http.deciding import Desk
from millrace.monitoring.costs import Sizes
from millrace.monitoring.episodes import Episodes
from millrace.monitoring.feedback import Feedback
from millrace.questions.history import ReadTable
from millrace.registry.batches import Batches
from millrace.registry.registry import Registry
from millrace.registry.rollouts import Rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What the app works with.

    Attributes:
        registry: The registry.
        batches: Batch jobs.
        rollouts: Rollouts.
        rollout_door: Starts and resumes rollouts.
        objects: Reads and writes specs, looks at files to be scored.
        artifact_bucket: Where specs and reports lie.
        data_bucket: Where quarantine reports lie.
        presign: Signs an address of an object (bucket, key).
        steps: Tells the steps of an execution by its ARN.
        trigger: The door to trainings and batch jobs.
        notifier: Tells people.
        stage: Name of the deployment's stage.
        code_version: Version of the deployed code.
        new_token: Makes an idempotency token.
        table: The registry's table, for what is only asked.
        now: The time.
        feedback: Takes labels.
        episodes: The alarms of monitoring.
        desk: Where versions that wait are decided on.
        approval_links: Whether links in notices may show and decide.
        clock: The time, aware and in UTC.
        sizes: Memory of the functions, which their time is priced by.
    """

    registry: Registry
    batches: Batches
    rollouts: Rollouts
    rollout_door: operations.RolloutDoor
    objects: operations.Objects
    artifact_bucket: str
    data_bucket: str
    presign: Callable[[str, str], str]
    steps: Callable[[str], tuple[StepProgress, ...]]
    trigger: operations.Trigger
    notifier: Notifier
    stage: str
    code_version: str
    new_token: Callable[[], str]
    table: ReadTable
    now: Callable[[], datetime]
    feedback: Feedback
    episodes: Episodes
    desk: Desk
    approval_links: bool
    clock: Callable[[], datetime]
    sizes: Sizes = field(default_factory=Sizes)

    def link(self, bucket: str, key: str) -> str | None:
        """A signed address of an object; none without a key."""
        return self.presign(bucket, key) if key else None
