"""The names that users write are pinned: to add, remove or rename one is a decision, so it changes this file too."""

import inspect
import subprocess
import sys
from typing import Any

import pytest

import sagacore
from sagacore import Context, Hold, Retry, Saga, Service, Step

NAMES = [
    "BrokerUnavailable",
    "Cause",
    "Client",
    "Compensated",
    "Completed",
    "Context",
    "DefinitionError",
    "Ended",
    "FenceError",
    "Handle",
    "Held",
    "Hold",
    "KeyConflict",
    "Outcome",
    "OutcomeTimeout",
    "PayloadError",
    "ProtocolError",
    "Rejected",
    "Retry",
    "Saga",
    "SagacoreError",
    "Sandbox",
    "Service",
    "StartRefused",
    "State",
    "Status",
    "Step",
    "SyncClient",
    "SyncHandle",
    "UnknownSaga",
    "UsageError",
]

MEMBERS: list[tuple[object, str]] = [
    (Service("s"), "action check name step steps waiting"),
    (
        Step("t", "s", input=int, output=int),
        """action compensable compensation declared_compensation implement implementation input input_codec name
        need_codecs needs output output_codec result_bytes service title undo waiting""",
    ),
    (
        Saga("s", int),
        (
            "deadline decode_result decode_results definition describe encode_input encode_inputs input "
            "may_follow name plan step steps then"
        ),
    ),
    (Context(bytes(16), "t", ""), "attempt db deadline_ms hold idempotency_key reads saga_id step tries writes"),
    (Retry(), "delay_ms first_ms last_ms tries"),
    (Hold("x"), "amount counted kind mode of resource shared"),
]

PARAMETERS = [
    (Service.__init__, "name waiting"),
    (Service.step, "name input output needs result_bytes compensation"),
    (Service.action, "function name timeout retry external holds result_bytes compensation"),
    (Step.action, "function timeout retry external holds"),
    (Context.hold, "what wait"),
    (Step.compensation, "function timeout retry external"),
    (Saga.__init__, "name input deadline undo input_bytes"),
    (Saga.then, "step more pivot undo_before returns"),
    (Saga.step, "step after pivot undo_before returns"),
]


def test_the_package_has_these_names_and_no_others() -> None:
    assert sorted(sagacore.__all__) == NAMES == sorted(NAMES)
    assert dir(sagacore) == sorted([*NAMES, "__version__"])


@pytest.mark.parametrize("name", [*NAMES, "__version__"])
def test_every_name_is_there(name: str) -> None:
    assert getattr(sagacore, name) is not None


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="'sagacore' has no attribute 'Sage'"):
        getattr(sagacore, "Sage")  # noqa: B009


@pytest.mark.parametrize(("thing", "members"), MEMBERS)
def test_objects_have_these_members_and_no_others(thing: object, members: str) -> None:
    assert [name for name in dir(thing) if not name.startswith("_")] == sorted(members.split())


@pytest.mark.parametrize(("function", "parameters"), PARAMETERS)
def test_calls_have_these_parameters(function: Any, parameters: str) -> None:
    assert list(inspect.signature(function).parameters)[1:] == parameters.split()


def test_contracts_can_be_read_without_sockets_or_the_extension() -> None:
    script = (
        "import sys; sys.modules['zmq'] = sys.modules['sagacore._core'] = None\n"
        "from sagacore import Saga, Service\n"
        "step = Service('s').step('t', input=int, output=int)\n"
        "assert Saga('x', int).then(step).definition and Saga('x', int).then(step).describe()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
