"""The one exception tree of Millrace.

::

    MillraceError
    ├── RetryableError                  try again, nothing is wrong with the request
    │   ├── ThrottledError              AWS asked to slow down
    │   ├── ServiceUnavailableError     an AWS service failed or timed out
    │   └── ConcurrentWriteError        a transaction lost a race that a fresh read may win
    └── FinalError                      trying again gives the same answer
        ├── ProblemsError               lists every wrong field; never raised itself
        │   ├── InvalidSpecError        the model spec is wrong: names the field
        │   ├── InvalidEventError       an event or a request that is not ours to understand
        │   └── InvalidRequestError     rows do not fit the signature: names row and field
        │       ├── MalformedRequestError   the body cannot be decoded: not JSON, not gzip, not UTF-8
        │       ├── RequestTooLargeError    more rows or bytes than one request may carry
        │       ├── RequestTimeoutError     the body did not arrive in time
        │       ├── NotAcceptableError      no format that Millrace writes is acceptable
        │       └── UnsupportedMediaTypeError   a format or encoding that Millrace does not read
        ├── UploadRefusedError          the uploaded file cannot become a dataset version
        ├── TrainingError               no trial, fit or export gave a usable model
        │   ├── NoViableTrialError      every trial failed
        │   └── ParityError             ONNX and scikit-learn disagree
        ├── ArtifactError               a stored artifact is missing or unsafe
        │   ├── DigestMismatchError     an artifact's bytes are not those registered
        │   └── ArtifactSignatureError  a version is not signed as this environment demands
        ├── NotFoundError               the thing named does not exist
        │   └── NoChampionError         the model exists and has no champion to answer with
        ├── ConflictError               the registry's state forbids the change
        │   ├── AlreadyExistsError      the thing to be created is there already
        │   ├── ConditionFailedError    a conditional write met another state than it assumed
        │   ├── InvalidTransitionError  the state table has no such edge
        │   ├── ChampionChangedError    the champion is not the one the caller compared with
        │   ├── AlreadyDecidedError     a person decided on the version before
        │   └── GoneError               what was asked for was valid once: an expired or used request
        ├── UnauthenticatedError        the caller did not prove who they are
        ├── NotApproverError            the caller is known, and may not decide on this version
        ├── AccessDeniedError           AWS refused the caller's credentials or permissions
        └── ConfigurationError          the deployment or the local set-up lacks something

Step Functions sees a class's name as the error's name, so retries name the retryable ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One wrong place in an input: where, what was expected, what came.

    Attributes:
        field: Dotted path, column or feature name, e.g. ``data.columns[2].type`` or ``age``.
        message: What was expected and what came, without payload of private columns.
        row: Row number, 0-based as in the request's ``rows`` array, or None.
    """

    field: str
    message: str
    row: int | None = None


class MillraceError(Exception):
    """Anything Millrace raises on purpose; the message is fit for the user's eyes."""


class RetryableError(MillraceError):
    """Nothing is wrong with the request: trying again may succeed."""


class ThrottledError(RetryableError):
    """AWS asked to slow down."""


class ServiceUnavailableError(RetryableError):
    """An AWS service failed or did not answer in time."""


class ConcurrentWriteError(RetryableError):
    """A transaction lost a race that a fresh read may win."""


class FinalError(MillraceError):
    """Trying again gives the same answer."""


class ProblemsError(FinalError):
    """A final error that lists the fields that are wrong (an intermediate class).

    Args:
        message: One sentence for people.
        problems: Every wrong place that was found, possibly truncated by the raiser.
    """

    def __init__(self, message: str, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[FieldProblem, ...] = tuple(problems)


class InvalidSpecError(ProblemsError):
    """The model spec is wrong; ``problems`` names each field."""


class InvalidEventError(ProblemsError):
    """An event or request does not have the shape it must have."""


class UploadRefusedError(FinalError):
    """The uploaded file cannot become a dataset version.

    Args:
        message: What was expected and what came.
        code: A stable machine-readable reason such as ``empty_file``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class TrainingError(FinalError):
    """No trial, fit or export gave a usable model."""


class NoViableTrialError(TrainingError):
    """Every trial of the search failed."""


class ParityError(TrainingError):
    """The exported ONNX model and the scikit-learn pipeline disagree beyond the tolerance."""


class ArtifactError(FinalError):
    """A stored artifact is missing, unsafe or malformed."""


class DigestMismatchError(ArtifactError):
    """An artifact's bytes are not those that were registered."""


class ArtifactSignatureError(ArtifactError):
    """A version is not signed, or not signed by the key that this environment trusts."""


class NotFoundError(FinalError):
    """The thing named does not exist."""


class NoChampionError(NotFoundError):
    """The model exists and has no champion to answer with."""


class ConflictError(FinalError):
    """The registry's state forbids the change."""


class AlreadyExistsError(ConflictError):
    """The thing to be created is there already."""


class ConditionFailedError(ConflictError):
    """A conditional write met another state than it assumed.

    Args:
        message: What was being done.
        failed: Names of the writes whose condition did not hold.
    """

    def __init__(self, message: str, failed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.failed: tuple[str, ...] = tuple(failed)


class InvalidTransitionError(ConflictError):
    """The state table has no such edge."""


class ChampionChangedError(ConflictError):
    """The champion is not the one the caller compared with."""


class AlreadyDecidedError(ConflictError):
    """Somebody decided on the version before; the message says who, what and when."""


class GoneError(ConflictError):
    """What was asked for was valid once: a request that expired, a link that was used."""


class NotApproverError(FinalError):
    """The caller is known and may not decide on this version: four eyes, or the spec's approvers."""


class InvalidRequestError(ProblemsError):
    """Rows do not fit the model's signature; ``problems`` names row and field."""


class MalformedRequestError(InvalidRequestError):
    """The body cannot be decoded: not JSON, not gzip, not UTF-8."""


class RequestTooLargeError(InvalidRequestError):
    """More rows or bytes than one request may carry; the message says what to do instead."""


class RequestTimeoutError(InvalidRequestError):
    """The body did not arrive in time."""


class NotAcceptableError(InvalidRequestError):
    """The caller accepts no format that Millrace writes."""


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is in a format or an encoding that Millrace does not read."""


class UnauthenticatedError(FinalError):
    """The caller did not prove who they are: a token that is missing, wrong or no longer valid."""


class AccessDeniedError(FinalError):
    """AWS refused the caller's credentials or permissions."""


class ConfigurationError(FinalError):
    """The deployment or the local set-up lacks something it needs."""
