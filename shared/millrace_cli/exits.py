"""Exit codes: one meaning each, the same for every command."""

from enum import IntEnum

from millrace.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConflictError,
    InvalidEventError,
    InvalidRequestError,
    InvalidSpecError,
    MillraceError,
    NotFoundError,
    RetryableError,
    UploadRefusedError,
)


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    """Something went wrong that is neither the user's input nor the stack's answer."""
    USAGE = 2
    """The command line itself is wrong (Typer's own code)."""
    INVALID = 3
    """A spec, a data file or a request breaks its contract."""
    NOT_FOUND = 4
    CONFLICT = 5
    """The registry's state forbids the change."""
    OUTCOME = 6
    """A followed run ended without a new champion, a batch job without predictions, a check of the
    ledger with faults, or a model needs attention."""
    UNREACHABLE = 7
    """No stack, no credentials or no answer: `millrace doctor` says how to mend it."""
    INTERRUPTED = 130
    """Stopped with Ctrl-C; what was started in the cloud goes on."""


def exit_code_for(error: MillraceError) -> ExitCode:
    """The exit code of an error."""
    match error:
        case InvalidSpecError() | InvalidRequestError() | InvalidEventError():
            return ExitCode.INVALID
        case UploadRefusedError():
            return ExitCode.INVALID
        case NotFoundError():
            return ExitCode.NOT_FOUND
        case ConflictError():
            return ExitCode.CONFLICT
        case AccessDeniedError() | ConfigurationError() | RetryableError():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.FAILED
