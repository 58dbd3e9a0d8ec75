"""Exit codes of the verbs: those of the `millrace` command, and one of our own."""

from typing import Final

from millrace_cli.exits import ExitCode

CHANGES: Final = 8
"""`plan` found something that a deployment would change."""

EXIT_CODES: Final = (
    "Exit codes: 0 done (plan: nothing would change), 1 it failed, 2 wrong command line, 3 invalid "
    "input: stage, parameters, release, 4 not found: release, record, stack, 5 the stack's state or "
    "another deployment forbids it, 6 a smoke check failed, or something that should be gone is still "
    "there, 7 no credentials, no region or no answer, 8 plan: a deployment would change something, "
    "130 stopped with Ctrl-C."
)

__all__ = ["CHANGES", "EXIT_CODES", "ExitCode"]
