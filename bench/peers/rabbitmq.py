"""The hand-written choice: an orchestrator over RabbitMQ and PostgreSQL, with an outbox.

A message a command and a message a reply, as such systems are written, because RabbitMQ acknowledges, repeats and
dead-letters single messages. All else is done in batches: a process takes what has come while it was busy, commits
once for all of it, publishes all of it, waits for the confirms together, and acknowledges all of it at once.

Run `python -m bench.peers.rabbitmq orchestrator`, `service NAME` or `drive ...` in the peers' environment; the
addresses come in `PEER_AMQP` and `PEER_POSTGRES`, and `PEER_DURABLE` says whether anything must outlive a crash.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable

import aio_pika
import aiormq
import asyncpg
import msgspec
import uvloop

from bench.peers.load import drive
from bench.peers.shop import SERVICES, STEPS, Ledger, Order, Outcome, Rejected

DURABLE = os.environ.get("PEER_DURABLE", "1") == "1"
PREFETCH = 1_000
INBOX = "orchestrator"
UNDO_FIRST = {"charge", "reserve"}
"""What is undone side by side; `create` only after both."""
CHAIN = list(STEPS)


Batch = list[aiormq.abc.DeliveredMessage]


class Start(msgspec.Struct, tag=True):
    """Asks the orchestrator for a saga. The answer goes to `reply_to`."""

    order: Order
    reply_to: str


class Command(msgspec.Struct, tag=True):
    """Asks a service for a step or, with `undo`, for its compensation."""

    order: Order
    undo: bool


class Reply(msgspec.Struct, tag=True):
    """What came of a command: the number that the step gave; 0 if it was undone, or rejected."""

    saga: str
    step: str
    number: int


class Ended(msgspec.Struct, tag=True):
    """How a saga ended."""

    saga: str
    outcome: Outcome


class Saga(msgspec.Struct):
    """A running saga: what the orchestrator keeps in its table, and in memory for as long as it lives."""

    order: Order
    reply_to: str
    waiting_for: set[str]
    done: list[str] = []
    undoing: bool = False
    undone: list[str] = []


class Mail:
    """One AMQP channel. Publishing goes through aio-pika's own lower layer, which need not wait for the socket."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._channel = channel
        self._arrived: Batch = []
        self._some = asyncio.Event()
        mode = aio_pika.DeliveryMode.PERSISTENT if DURABLE else aio_pika.DeliveryMode.NOT_PERSISTENT
        self._mode = int(mode)

    @classmethod
    async def connect(cls) -> "Mail":
        """Open a connection with one channel, with publisher confirms if anything must be durable."""
        connection = await aio_pika.connect(os.environ["PEER_AMQP"])
        channel = await (await connection.channel(publisher_confirms=DURABLE)).get_underlay_channel()
        await channel.basic_qos(prefetch_count=PREFETCH)
        return cls(channel)

    async def declare(self, queue: str) -> None:
        """Make a queue unless it is there."""
        await self._channel.queue_declare(queue, durable=DURABLE)

    async def own_queue(self) -> str:
        """Make a queue that goes with this connection, and listen to it."""
        declared = await self._channel.queue_declare("", exclusive=True)
        queue = str(declared.queue)
        await self.listen(queue)
        return queue

    async def listen(self, queue: str) -> None:
        """Gather what comes to a queue."""
        await self._channel.basic_consume(queue, self._gather)

    async def _gather(self, message: aiormq.abc.DeliveredMessage) -> None:
        self._arrived.append(message)
        self._some.set()

    async def batch(self) -> Batch:
        """All messages that came since the last batch; waits for the first one."""
        await self._some.wait()
        self._some.clear()
        taken, self._arrived = self._arrived, []
        return taken

    async def acknowledge(self, batch: Batch) -> None:
        """The whole batch, and all that came before it, is done with."""
        tag = batch[-1].delivery_tag
        assert tag is not None
        await self._channel.basic_ack(tag, multiple=True, wait=False)

    async def publish(self, queue: str, message: msgspec.Struct) -> None:
        """Send a message, and wait until RabbitMQ has confirmed it."""
        properties = aiormq.spec.Basic.Properties(delivery_mode=self._mode)
        body = msgspec.json.encode(message)
        await self._channel.basic_publish(body, routing_key=queue, properties=properties, wait=False)

    async def publish_all(self, messages: Iterable[tuple[str, msgspec.Struct]]) -> None:
        """Send many messages, and wait for all confirms together."""
        await asyncio.gather(*(self.publish(queue, message) for queue, message in messages))


async def service(name: str) -> None:
    """Serve one service: its effects, and what it has already done, are in memory."""
    mail = await Mail.connect()
    await mail.declare(name)
    await mail.listen(name)
    decoder = msgspec.json.Decoder(Command)
    step, ledger = SERVICES[name], Ledger()
    published: asyncio.Queue[tuple[Batch, Awaitable[None]]] = asyncio.Queue()

    async def acknowledge() -> None:
        while True:
            batch, confirmed = await published.get()
            await confirmed
            await mail.acknowledge(batch)

    async def serve() -> None:
        while True:
            batch = await mail.batch()
            replies = [_serve(step, ledger, decoder.decode(message.body)) for message in batch]
            confirmed = asyncio.ensure_future(mail.publish_all((INBOX, reply) for reply in replies))
            published.put_nowait((batch, confirmed))

    await asyncio.gather(serve(), acknowledge())


def _serve(step: str, ledger: Ledger, command: Command) -> Reply:
    number = 0
    if command.undo:
        ledger.undo(command.order)
    else:
        try:
            number = STEPS[step][1](ledger, command.order)
        except Rejected:
            number = 0
    return Reply(command.order["order_id"], step, number)


SCHEMA = """
create table if not exists sagas (id text primary key, state text not null, ended bool not null) with (fillfactor = 60);
create table if not exists outbox (id bigint primary key, queue text not null, body text not null);
"""
BATCH = """
with started as (
    insert into sagas select id, state, false from unnest($1::text[], $2::text[]) as new (id, state)
    on conflict do nothing
), moved as (
    update sagas set state = now.state, ended = now.ended
    from unnest($3::text[], $4::text[], $5::bool[]) as now (id, state, ended) where sagas.id = now.id
), confirmed as (
    delete from outbox where id = any($6::bigint[])
)
insert into outbox select * from unnest($7::bigint[], $8::text[], $9::text[])
"""
"""All that a batch changes, as one statement: one round trip, one commit, one sync."""


class Orchestrator:
    """The sagas that run, and what a batch of messages does to them."""

    def __init__(self, database: asyncpg.Connection, mail: Mail) -> None:
        self._database = database
        self._mail = mail
        self._running: dict[str, Saga] = {}
        self._confirmed: list[int] = []
        self._next = 1
        self._publishing: set[asyncio.Task[None]] = set()
        self._decoder = msgspec.json.Decoder(Start | Reply)

    async def recover(self) -> None:
        """Take up what an earlier process has left: its running sagas, and what it may not have published."""
        await self._database.execute(SCHEMA)
        for row in await self._database.fetch("select id, state from sagas where not ended"):
            self._running[row["id"]] = msgspec.json.decode(row["state"], type=Saga)
        left = await self._database.fetch("select id, queue, body from outbox order by id")
        self._next = max((row["id"] for row in left), default=0) + 1
        self._publish([(row["id"], row["queue"], msgspec.json.decode(row["body"], type=Command)) for row in left])

    async def run(self) -> None:
        """Work through what comes, batch after batch, for ever."""
        while True:
            batch = await self._mail.batch()
            started: dict[str, Saga] = {}
            moved: dict[str, Saga] = {}
            commands: list[tuple[int, str, Command]] = []
            ended: list[tuple[str, Ended]] = []
            for message in batch:
                match self._decoder.decode(message.body):
                    case Start(order, reply_to):
                        if (key := order["order_id"]) not in self._running:
                            started[key] = self._running[key] = Saga(order, reply_to, {CHAIN[0]})
                            self._command(commands, CHAIN[:1], order, undo=False)
                    case Reply(key, step, number):
                        saga = self._running.get(key)
                        if saga is not None and step in saga.waiting_for:
                            moved[key] = saga
                            self._advance(saga, step, number, commands, ended)
            await self._commit(started, moved, commands, {end.saga for _, end in ended})
            await self._mail.acknowledge(batch)
            self._publish(commands)
            self._spawn(self._mail.publish_all(ended))

    def _advance(
        self,
        saga: Saga,
        step: str,
        number: int,
        commands: list[tuple[int, str, Command]],
        ended: list[tuple[str, Ended]],
    ) -> None:
        saga.waiting_for.discard(step)
        if saga.undoing:
            saga.undone.append(step)
            if saga.waiting_for:
                return
            following = [left for left in saga.done if left not in saga.undone]
        elif number == 0:
            saga.undoing = True
            following = [done for done in saga.done if done in UNDO_FIRST] or saga.done
        else:
            saga.done.append(step)
            following = CHAIN[len(saga.done) : len(saga.done) + 1]
        if following:
            saga.waiting_for.update(following)
            self._command(commands, following, saga.order, undo=saga.undoing)
        else:
            outcome = Outcome(parcel=number, undone=saga.undone)
            ended.append((saga.reply_to, Ended(saga.order["order_id"], outcome)))

    def _command(self, commands: list[tuple[int, str, Command]], steps: list[str], order: Order, *, undo: bool) -> None:
        for step in steps:
            commands.append((self._next, STEPS[step][0], Command(order, undo)))
            self._next += 1

    async def _commit(
        self,
        started: dict[str, Saga],
        moved: dict[str, Saga],
        commands: list[tuple[int, str, Command]],
        ended: set[str],
    ) -> None:
        for key in ended:
            del self._running[key]
        confirmed, self._confirmed = self._confirmed, []
        await self._database.execute(
            BATCH,
            *(list(started), [_text(saga) for saga in started.values()]),
            *(list(moved), [_text(saga) for saga in moved.values()], [key in ended for key in moved]),
            confirmed,
            *([number for number, _, _ in commands], [queue for _, queue, _ in commands]),
            [_text(command) for _, _, command in commands],
        )

    def _publish(self, commands: list[tuple[int, str, Command]]) -> None:
        """Publish while the next batch is worked on; what is confirmed by then leaves the outbox with its commit."""

        async def publish() -> None:
            await self._mail.publish_all((queue, command) for _, queue, command in commands)
            self._confirmed.extend(number for number, _, _ in commands)

        self._spawn(publish())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._publishing.add(task)
        task.add_done_callback(self._published)

    def _published(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        if error := task.exception():
            sys.exit(f"not published: {error}")


def _text(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


async def orchestrate() -> None:
    """Run the orchestrator."""
    mail = await Mail.connect()
    for queue in (INBOX, *SERVICES):
        await mail.declare(queue)
    orchestrator = Orchestrator(await asyncpg.connect(os.environ["PEER_POSTGRES"]), mail)
    await orchestrator.recover()
    await mail.listen(INBOX)
    await orchestrator.run()


async def measure(arguments: list[str]) -> None:
    """Place orders as a client."""
    mail = await Mail.connect()
    answers = await mail.own_queue()
    waiting: dict[str, asyncio.Future[Outcome]] = {}
    decoder = msgspec.json.Decoder(Ended)

    async def listen() -> None:
        while True:
            batch = await mail.batch()
            for message in batch:
                ended = decoder.decode(message.body)
                waiting.pop(ended.saga).set_result(ended.outcome)
            await mail.acknowledge(batch)

    async def place(order: Order) -> Outcome:
        answer = waiting[order["order_id"]] = asyncio.get_running_loop().create_future()
        await mail.publish(INBOX, Start(order, answers))
        outcome: Outcome = await answer
        return outcome

    listening = asyncio.create_task(listen())
    await drive(place, arguments)
    listening.cancel()


ROLES: dict[str, Callable[[list[str]], Awaitable[None]]] = {
    "orchestrator": lambda _: orchestrate(),
    "service": lambda arguments: service(*arguments),
    "drive": measure,
}

if __name__ == "__main__":
    uvloop.run(ROLES[sys.argv[1]](sys.argv[2:]))  # type: ignore[arg-type]
