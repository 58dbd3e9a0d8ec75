"""Gap ``runtime``: Python functions run as on Lambda."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conformance.conftest import Stack
from tests.until import until

SECRETS_OF_THE_HOST = ("HOME", "GATEWAY_PORT", "STATE_DIR", "PYTHONPATH", "MILLRACE_CLOUD_RUNTIME")


def test_an_error_keeps_its_name(stack: Stack) -> None:
    answer, failure = stack.invoke({"do": "raise"})

    assert failure == "Unhandled"
    assert answer["errorType"] == "DocumentedError"
    assert answer["errorMessage"] == "as documented"
    assert answer["stackTrace"]


def test_an_error_does_not_cost_the_environment(stack: Stack) -> None:
    before, _ = stack.invoke({"do": "identify"})
    stack.invoke({"do": "raise"})
    after, _ = stack.invoke({"do": "identify"})

    assert after["pid"] == before["pid"]


def test_information_is_logged_and_printed_json_is_not_the_reply(stack: Stack) -> None:
    mark = f"mark-{time.time_ns()}"

    answer, failure = stack.invoke({"do": "print", "mark": mark})

    assert (answer, failure) == ({"returned": mark}, None)
    group = f"/aws/lambda/{stack.outputs['Function']}"
    events = until(
        lambda: stack.client("logs").filter_log_events(
            logGroupName=group, filterPattern=f'"{mark}"'
        )["events"]
    )
    assert any(f"an information {mark}" in event["message"] for event in events)


def test_the_host_environment_does_not_leak(stack: Stack) -> None:
    answer, _ = stack.invoke({"do": "identify"})

    environment = answer["environment"]
    assert not {*SECRETS_OF_THE_HOST} & environment.keys()
    assert environment["GREETING"] == "hello"
    assert environment["AWS_REGION"] == "us-east-1"
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == stack.outputs["Function"]
    assert environment["AWS_ENDPOINT_URL"] == stack.info.endpoint


@pytest.mark.parametrize("module", ["ministack", "samtranslator", "pytest", "pydantic"])
def test_a_package_that_lambda_lacks_is_not_importable(stack: Stack, module: str) -> None:
    answer, failure = stack.invoke({"do": "import", "module": module})

    assert failure == "Unhandled"
    assert answer["errorType"] == "ModuleNotFoundError"


def test_the_runtime_brings_boto3(stack: Stack) -> None:
    answer, failure = stack.invoke({"do": "import", "module": "boto3"})

    assert failure is None, answer


def test_the_functions_own_packages_come_before_the_runtimes(stack: Stack) -> None:
    answer, _ = stack.invoke({"do": "identify"})

    path = answer["path"]
    assert path[0] == answer["environment"]["LAMBDA_TASK_ROOT"]
    assert path.index(path[0]) < next(i for i, p in enumerate(path) if "site-packages" in p)


def test_a_missing_handler_is_named(stack: Stack) -> None:
    answer, failure = stack.invoke({}, function="Broken")

    assert failure == "Unhandled"
    assert answer["errorType"] == "Runtime.ImportModuleError"


def test_an_overrun_is_a_timeout_and_the_next_call_works(stack: Stack) -> None:
    answer, failure = stack.invoke({"do": "identify", "seconds": 30})

    assert failure == "Unhandled"
    assert answer["errorType"] == "Sandbox.Timedout"
    assert "4.00 seconds" in answer["errorMessage"]
    assert stack.invoke({"do": "echo"})[1] is None


def test_a_dying_process_is_an_exit_error(stack: Stack) -> None:
    answer, failure = stack.invoke({"do": "exit"})

    assert failure == "Unhandled"
    assert answer["errorType"] == "Runtime.ExitError"
    assert "exit status 7" in answer["errorMessage"]


def test_an_environment_stays_warm(stack: Stack) -> None:
    first, _ = stack.invoke({"do": "identify"})

    started = time.monotonic()
    pids = {stack.invoke({"do": "identify"})[0]["pid"] for _ in range(5)}

    assert pids == {first["pid"]}
    assert time.monotonic() - started < 2


def test_concurrent_invocations_share_a_bounded_number_of_environments(stack: Stack) -> None:
    # Longer than a cold start, for which the second environment would otherwise not be worth it.
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = list(pool.map(lambda _: stack.invoke({"do": "identify", "seconds": 3}), range(4)))

    assert [failure for _, failure in answers] == [None] * 4
    assert len({answer["pid"] for answer, _ in answers}) == 2


def test_a_changed_setting_reaches_the_next_invocation(stack: Stack) -> None:
    name = stack.outputs["Quiet"]
    functions = stack.client("lambda")

    for value in ("one", "two"):
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": {"VALUE": value}}
        )
        functions.get_waiter("function_updated_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 1}
        )
        answer, _ = stack.invoke({"do": "identify"}, function="Quiet")
        assert answer["environment"]["VALUE"] == value
