"""The command line. Every command imports what it needs when it is called, so that `--help` is quick."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from cyclopts import App, Parameter

from sagacore import cli_holds
from sagacore.chaos.options import ChaosOptions
from sagacore.demo.options import DemoOptions
from sagacore.errors import SagacoreError, UsageError

ENDPOINT: Final = "ipc:///tmp/sagacore.sock"
T = TypeVar("T")

Endpoint = Annotated[str, Parameter(env_var="SAGACORE_ENDPOINT")]


def _version() -> str:
    from sagacore import _core

    return _core.__version__


HELP: Final = "Sagas across services: without a workflow engine, without its database."
app = App(name="sagacore", help=HELP, version=_version)
log_app = App(name="log", help="Look into a broker's log, verify or repair it, while no broker runs on it.")
app.command(log_app)
cli_holds.add_to(app)


@app.command
def demo(options: Annotated[DemoOptions, Parameter(name="*")] | None = None) -> int:
    """Place orders in a shop of four services, each its own process, and check the books at the end."""
    from sagacore.demo import run

    return run(options or DemoOptions())


@app.command
def chaos(options: Annotated[ChaosOptions, Parameter(name="*")] | None = None) -> int:
    """Hurt a shop of real processes, or a deployment of your own, 5 s on and 5 s off; heal it, and audit what is left.

    See docs/chaos.md.
    """
    from sagacore.chaos import run

    return run(options or ChaosOptions())


@app.command
def broker(
    *,
    endpoint: Endpoint = ENDPOINT,
    data: Path | None = None,
    durability: Literal["sync", "os", "memory"] = "sync",
    visibility: Literal["strict", "relaxed"] = "strict",
    segment_bytes: int = 64 << 20,
    sync_interval_us: int = 250,
    stuck_after_ms: int = 60_000,
    outcomes_max: int = 1 << 20,
    outcomes_ms: int = 600_000,
    detect_deadlocks: bool = True,
    shard: int = 0,
) -> int:
    """Run the broker: the one process that everything goes through, and whose log is the truth.

    Parameters
    ----------
    endpoint
        Where to listen: ipc:///path/to/socket or tcp://127.0.0.1:7700.
    data
        Folder of the log. Needed unless durability is "memory".
    durability
        When a transaction counts: synced to the disk, written to the system, or at once and gone with the process.
    visibility
        Strict: nothing leaves before it is durable. Relaxed: steps run ahead of the log, and only what decides waits
        (start, pivot, the first compensations, outcome); after a crash an abort compensates the saga's whole plan.
    segment_bytes
        Size of a segment of the log, in bytes.
    sync_interval_us
        Under load syncs begin at least so many microseconds apart; alone, at once.
    stuck_after_ms
        A compensation, or a step past the pivot, that is not done so long after the abort or the pivot is stuck.
    outcomes_max
        Ended sagas that are remembered at most.
    outcomes_ms
        How long they are remembered at most, in milliseconds.
    detect_deadlocks
        Whether sagas that wait for each other are found and resolved; else they wait until their deadlines.
    shard
        Its number among several brokers: 0, 1 and so on. A log is always of one number.

    """
    from sagacore.processes.broker import BrokerOptions, run_broker

    if data is None and durability != "memory":
        raise UsageError("SAGA-E506", "no folder for the log", "give --data FOLDER, or --durability memory for a try")
    return run_broker(
        BrokerOptions(
            endpoint=endpoint,
            data=data,
            durability=durability,
            visibility=visibility,
            segment_bytes=segment_bytes,
            sync_interval_us=sync_interval_us,
            stuck_after_ms=stuck_after_ms,
            outcomes_max=outcomes_max,
            outcomes_ms=outcomes_ms,
            detect_deadlocks=detect_deadlocks,
            shard=shard,
        )
    )


@app.command
def coordinator(*, endpoint: Endpoint = ENDPOINT, slots: int = 65_536, credit: int = 1_024) -> int:
    """Run a coordinator: a fixed table in memory and no truth. Several share the sagas; any may be killed.

    Parameters
    ----------
    endpoint
        Where the broker listens.
    slots
        Slots of 64 bytes in its table, rounded up to a power of two.
    credit
        Messages that it may hold unanswered.

    """
    from sagacore.processes.coordinator import CoordinatorOptions, run_coordinator

    return run_coordinator(CoordinatorOptions(endpoint=endpoint, slots=slots, credit=credit))


@app.command
def service(
    target: str, /, *, endpoint: Endpoint = ENDPOINT, fence: str = "memory", isolation: Path | None = None
) -> int:
    """Run one process of a service.

    Parameters
    ----------
    target
        The service, as module:object, for example shop.payments:payments.
    endpoint
        Where the broker listens; of several, with commas between them, in the order of their --shard numbers.
    fence
        "memory" (lost with the process: for tests and benches) or "sqlite:PATH".
    isolation
        A file to append to what handlers say that they read and write, for `sagacore isolation`.

    """
    from sagacore.processes.service import load_service, run_service

    return run_service(load_service(target), endpoint, fence, isolation)


@app.command
def status(key: str | None = None, /, *, id: str | None = None, endpoint: Endpoint = ENDPOINT) -> int:
    """Say how far a saga is, by your key or by its id. The exit status is 1 if the broker does not know it.

    Parameters
    ----------
    key
        The key that it was started under.
    id
        Its id, instead of the key.
    endpoint
        Where the broker listens; of several, with commas between them.

    """
    found = _ask(endpoint, lambda client: client.status(key, id=id))
    print(json.dumps({"state": found.state, "steps": found.steps, "saga_id": found.saga_id}))
    return 0 if found.state != "unknown" else 1


@app.command
def cancel(key: str | None = None, /, *, id: str | None = None, reason: str = "", endpoint: Endpoint = ENDPOINT) -> int:
    """Abort a saga that has not reached its pivot; its steps are compensated.

    Parameters
    ----------
    key
        The key that it was started under.
    id
        Its id, instead of the key.
    reason
        What its starter is told.
    endpoint
        Where the broker listens; of several, with commas between them.

    """
    accepted = _ask(endpoint, lambda client: client.cancel(key, id=id, reason=reason))
    print("cancelled" if accepted else "too late: it is deciding, compensating or ended")
    return 0 if accepted else 1


@app.command
def stuck(*, endpoint: Endpoint = ENDPOINT) -> int:
    """List the sagas that are stuck, one JSON object a line, with the numbers of the steps that `resolve` takes.

    Parameters
    ----------
    endpoint
        Where the broker listens; of several, with commas between them.

    """
    for saga in _ask(endpoint, lambda client: client.stuck()):
        print(json.dumps(saga))
    return 0


@app.command
def resolve(
    id: str,
    step: int,
    action: Literal["retry", "skip", "done"],
    /,
    *,
    reason: str = "",
    result: str = "",
    endpoint: Endpoint = ENDPOINT,
) -> int:
    """Decide about a step that is stuck: retry now, skip its compensation, or say that it was done by hand.

    Parameters
    ----------
    id
        The saga's id, as `sagacore stuck` shows it.
    step
        The step's number, as `sagacore stuck` shows it.
    action
        retry, skip (a compensation) or done (a step past the pivot).
    reason
        Why; a skip is told with the outcome.
    result
        For done: the step's result, as JSON of the type that the step returns; null if it returns nothing.
    endpoint
        Where the broker listens; of several, with commas between them.

    """
    import msgspec

    if (action == "done") != bool(result):
        raise UsageError(
            "SAGA-E506",
            "done needs the step's result" if action == "done" else f"{action} takes no result",
            "give --result JSON with done, and only with done; null is what a step has that returns nothing",
        )
    try:
        value = msgspec.msgpack.encode(msgspec.json.decode(result)) if result else b""
    except msgspec.DecodeError as error:
        raise UsageError(
            "SAGA-E111", f"the result is no JSON: {error}", """quote it: --result '{"id": 7}'"""
        ) from error
    _ask(endpoint, lambda client: client.resolve(id, step, action, reason=reason, result=value))
    print("resolved")
    return 0


@app.command
def stats(*, endpoint: Endpoint = ENDPOINT) -> int:
    """Print the broker's counters as JSON.

    Parameters
    ----------
    endpoint
        Where the broker listens; of several, with commas between them.

    """
    print(json.dumps(_ask(endpoint, lambda client: client.stats()), indent=2))
    return 0


@app.command
def deadlocks(
    *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False, endpoint: Endpoint = ENDPOINT
) -> int:
    """Draw the last deadlocks that the broker has resolved: who waited for what, and which saga gave way.

    Parameters
    ----------
    as_json
        Print one JSON object a line.
    endpoint
        Where the broker listens; of several, with commas between them.

    """
    from sagacore.picture import deadlock_text

    for found in _ask(endpoint, lambda client: client.deadlocks()):
        print(json.dumps(found) if as_json else deadlock_text(found))
    return 0


@app.command
def graph(target: str, /) -> int:
    """Draw a saga: how it goes forward, how it is undone, and what it costs in messages.

    Parameters
    ----------
    target
        The saga, as module:object, for example shop.saga:place_order.

    """
    from sagacore.processes.load import load
    from sagacore.saga import Saga

    saga = load(target, Saga)
    print(saga.describe())
    return 0


@app.command
def simulate(
    *,
    seeds: int = 100,
    first: Annotated[int, Parameter(name="--from")] = 0,
    seed: int | None = None,
    jobs: int = 1,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Run the real cores under seeded faults, in virtual time, and check that nothing is lost and nothing done twice.

    A seed that fails is printed with the command that replays it. The exit status is 1 if one failed, or if 1,000 seeds
    or more did not meet every rare situation that they should.

    Parameters
    ----------
    seeds
        How many.
    first
        The first of them.
    seed
        Replay this one instead, and tell its story.
    jobs
        Threads.
    as_json
        Print one line of JSON for programs at the end.

    """
    from sagacore import _core
    from sagacore.processes.simulate import simulate as run_seeds

    if seeds < 1 or first < 0 or jobs < 1 or (seed or 0) < 0:
        raise UsageError("SAGA-E506", "seeds and jobs are at least 1, a seed is at least 0", "--seeds 100 --from 0")
    if seed is not None:
        story, is_right = _core.simulate_seed(seed)
        print("\n".join(story))
        return 0 if is_right else 1
    simulation = _core.Simulation()
    for line in run_seeds(simulation, first, seeds, jobs, as_json=as_json):
        print(line, flush=True)
    return 0 if simulation.is_right else 1


@log_app.command
def verify(data: Path, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Read every frame of a log and say whether it is whole. Nothing is changed.

    healthy (exit status 0): a broker can start. torn (3): a broker can start, and cuts off what its last write left
    half done. damaged (1): a broker refuses it, and the place is told. Stop the broker first: a log that is being
    written may look torn.

    Parameters
    ----------
    data
        The broker's folder.
    json
        Print one JSON object.

    """
    from sagacore.processes import log_text, log_tools

    found = log_tools.verify(data)
    print(_to_json(dataclasses.asdict(found)) if json else log_text.found_text(found))
    return found.exit_status


@log_app.command
def repair(data: Path, /, *, yes: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Cut a damaged log where the damage begins. What came after is lost to the broker, and kept as *.broken files.

    Without --yes it only says what would be lost, and ends with exit status 1. Stop the broker first.

    Parameters
    ----------
    data
        The broker's folder.
    yes
        Do it.

    """
    from sagacore.processes import log_text, log_tools

    cut = log_tools.repair(data, confirmed=yes)
    if cut is None:
        print("nothing to repair: the broker can start as it is")
        return 0
    print(log_text.cut_text(cut, is_done=yes))
    if not yes:
        print("nothing was changed. Copy the folder, then give --yes to cut it there")
    return 0 if yes else 1


@log_app.command
def dump(
    data: Path,
    /,
    *,
    saga: str | None = None,
    from_lsn: Annotated[int, Parameter(name=["--from", "--from-lsn"])] = 0,
    bodies: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Print a log's records: what each transaction consumes (-) and publishes (+), and what was copied forward (=).

    The verdict follows on stderr, and the exit status is that of `log verify`: after the place where a log is torn or
    damaged there are no records.

    Parameters
    ----------
    data
        The broker's folder.
    saga
        Only what is about the saga with this id.
    from_lsn
        Only records from this LSN on.
    bodies
        Print inputs, results, keys and reasons too, which may be confidential, and not only their sizes.
    json
        Print one JSON object a line.

    """
    from sagacore.processes import log_text, log_tools

    as_line = log_text.record_json if json else log_text.record_text
    found = log_tools.dump(data, lambda record: print(as_line(record)), from_lsn=from_lsn, saga=saga, bodies=bodies)
    sys.stdout.flush()
    print(log_text.found_text(found), file=sys.stderr)
    return found.exit_status


def _to_json(value: object) -> str:
    return json.dumps(value)


def _ask(endpoint: str, question: Callable[[Any], Any]) -> Any:
    from sagacore.client import Client

    async def ask() -> Any:
        async with Client(endpoint, timeout=5.0) as client:
            return await question(client)

    return asyncio.run(ask())


def main() -> None:
    """Run the command that was asked for. Errors go to stderr with their code and hint; the exit status says which."""
    try:
        try:
            sys.exit(app())
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, as `head` has. What is left in the buffer is not to be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SagacoreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
