"""Runs one function's cold start and tells where its time went.

Started as ``python -I drive.py TASK`` with a task as JSON: the folders to import from, the modules
to import one after the other (the last has ``handler``), the functions to mark, and the event. It
writes its marks, each with the CPU and the wall clock, and the answer, as one line of JSON on the
descriptor it is given.
"""

import sys
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MARKS = [("interpreter", time.process_time(), time.time())]


def mark(name: str) -> None:
    """Notes that a step has ended."""
    MARKS.append((name, time.process_time(), time.time()))


def marked(function: "Callable[..., Any]", before: str, after: str) -> "Callable[..., Any]":
    """The function, with a mark at its beginning and its end."""

    def run(*args: "Any", **kwargs: "Any") -> "Any":
        if before:
            mark(before)
        try:
            return function(*args, **kwargs)
        finally:
            mark(after)

    return run


def main() -> None:
    """The whole life of the process."""
    import importlib
    import json
    import os

    task = json.loads(sys.argv[1])
    sys.path[:0] = task["folders"]
    mark("driver")
    for name in task["modules"]:
        module = importlib.import_module(name)
        mark(f"import {name}")
    for place, name, before, after in task["marks"]:
        path, _, holder = place.partition(":")
        owner = importlib.import_module(path)
        owner = getattr(owner, holder) if holder else owner
        setattr(owner, name, marked(getattr(owner, name), before, after))

    class Context:
        function_name = "cold"
        memory_limit_in_mb = 1024
        invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:cold"
        aws_request_id = "1"

        def get_remaining_time_in_millis(self) -> int:
            return 29_000

    answer = module.handler(task["event"], Context())
    mark("answer")
    with os.fdopen(task["descriptor"], "w") as out:
        json.dump({"marks": MARKS, "answer": answer}, out)


main()
