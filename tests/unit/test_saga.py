"""Sagas: how they are built, what their definitions say, what is refused, and how they are drawn."""

import re
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from sagacore import DefinitionError, PayloadError, ProtocolError, Saga, Service, Step, limits
from sagacore.picture import Order as Graph


class Order(Struct, frozen=True):
    number: int


class Created(Struct, frozen=True):
    number: int


class Charged(Struct, frozen=True):
    cents: int


class Reserved(Struct, frozen=True):
    sku: str


class Scheduled(Struct, frozen=True):
    day: str


orders, payments, inventory, shipping = map(Service, ("orders", "payments", "inventory", "shipping"))
create = orders.step("create", input=Order, output=Created)
charge = payments.step("charge", input=Order, output=Charged, needs=[Created], result_bytes=100)
reserve = inventory.step("reserve", input=Order, output=Reserved)
schedule = shipping.step("schedule", input=Order, output=Scheduled, needs=[Reserved, Created], compensation=False)
empty = Saga("place-order", Order, deadline=30)
diamond = empty.then(create).then(charge, reserve).then(schedule, pivot=True)


def refused(code: str) -> Any:
    return pytest.raises(DefinitionError, match=code)


def free_step(name: str, *, output: type[Any] = str, **options: Any) -> Step[Order, Any]:
    return Service("free").step(name, input=Order, output=output, **options)


class TestDefinition:
    def test_it_says_what_the_saga_says(self) -> None:
        assert msgpack.unpackb(diamond.definition) == [
            1,
            "place-order",
            4096,
            30_000,
            0,
            [3],
            [
                ["create", "orders", 256, 2, [], [], []],
                ["charge", "payments", 100, 2, [0], [0], []],
                ["reserve", "inventory", 256, 2, [0], [], []],
                ["schedule", "shipping", 256, 1, [1, 2], [2, 0], []],
            ],
        ]

    def test_another_packer_writes_the_same_bytes(self) -> None:
        assert msgpack.packb(msgpack.unpackb(diamond.definition)) == diamond.definition

    def test_options_of_the_saga(self) -> None:
        saga = Saga("x", Order, deadline=0.25, undo="chain", input_bytes=100).then(create)
        assert msgpack.unpackb(saga.definition)[:6] == [1, "x", 100, 250, 1, [0]]

    def test_any_graph_by_single_steps(self) -> None:
        saga = (
            empty.step(create)
            .step(reserve)
            .step(charge, after=[create], undo_before=[reserve, create, create])
            .step(schedule, after=[reserve, create], returns=[charge, create])
        )
        steps = msgpack.unpackb(saga.definition)[6]
        assert [step[4:] for step in steps] == [[[], [], []], [[], [], []], [[0], [0], [0, 1]], [[0, 1], [1, 0], []]]
        assert msgpack.unpackb(saga.definition)[5] == [0, 2]

    def test_a_group_comes_after_all_that_nothing_follows(self) -> None:
        saga = empty.step(create).step(reserve).step(charge, after=[create]).then(schedule)
        assert msgpack.unpackb(saga.definition)[6][3][4] == [1, 2]

    def test_a_group_may_be_undone_before_others(self) -> None:
        saga = empty.then(create).then(charge, reserve, undo_before=[create])
        assert [step[6] for step in msgpack.unpackb(saga.definition)[6]] == [[], [0], [0]]

    def test_only_what_may_be_undone_is_marked(self) -> None:
        audit = free_step("audit", compensation=False)
        after = free_step("after")
        saga = empty.then(create, audit).then(schedule := free_step("decide"), pivot=True).then(after)
        assert saga.steps == (create, audit, schedule, after)
        assert [step[3] for step in msgpack.unpackb(saga.definition)[6]] == [2, 0, 1, 0]

    def test_adding_leaves_the_saga_as_it_was(self) -> None:
        chain = empty.then(create)
        before = chain.definition
        chain.then(charge)
        chain.step(reserve)
        assert chain.definition == before
        assert chain.steps == (create,)
        assert empty.steps == ()

    def test_a_contract_and_its_implementation_have_one_definition(self) -> None:
        def build(*, implemented: bool) -> bytes:
            step = Service("free").step("step", input=Order, output=Created)
            if implemented:
                step.action(lambda_action)
                step.compensation(undo_created)
            return Saga("s", Order).then(step).definition

        assert build(implemented=True) == build(implemented=False)


def lambda_action(order: Order) -> Created:
    return Created(order.number)


def undo_created(order: Order, created: Created | None) -> None: ...


class TestRefused:
    def test_a_need_that_nothing_gives(self) -> None:
        with refused("SAGA-E112") as error:
            empty.then(reserve).then(charge)
        assert "needs Created, which no step before it returns" in error.value.message

    def test_a_need_that_comes_beside_or_later(self) -> None:
        with refused("SAGA-E112") as error:
            empty.then(create, charge)
        assert "'orders.create' returns it: put it before" in error.value.hint

    def test_a_need_that_two_give(self) -> None:
        twin = free_step("twin", output=Created)
        with refused("SAGA-E113") as error:
            empty.then(create, twin).then(charge)
        assert "'orders.create', 'free.twin' all return it" in error.value.message
        assert empty.then(create).step(charge, after=[create]).step(twin).steps[2] is twin

    def test_another_input(self) -> None:
        with refused("SAGA-E114"):
            empty.then(Service("s").step("weigh", input=Charged))  # type: ignore[arg-type]

    def test_a_step_twice_or_a_name_twice(self) -> None:
        with refused("SAGA-E115"):
            empty.then(create).then(create)
        with refused("SAGA-E115"):
            empty.then(create, free_step("create"))

    @pytest.mark.parametrize("where", ["after", "undo_before", "returns"])
    def test_names_of_steps_that_are_not_there(self, where: str) -> None:
        lists: dict[str, Any] = {where: [charge]}
        with refused("SAGA-E116") as error:
            empty.then(create).step(reserve, **lists)
        assert error.value.message.startswith((f"{where} of inventory.reserve", "returns"))
        with refused("SAGA-E116"):
            empty.then(create).step(reserve, **{**lists, where: ["create"]})

    def test_what_is_no_step(self) -> None:
        with refused("SAGA-E125"):
            empty.then("create")  # type: ignore[call-overload]
        with refused("SAGA-E125"):
            empty.then(create).step(print, after=[create])  # type: ignore[call-overload]

    def test_a_step_before_itself(self) -> None:
        with refused("SAGA-E116"):
            empty.then(create).step(reserve, after=[reserve])
        with refused("SAGA-E116"):
            empty.then(create).then(reserve, undo_before=[reserve])

    def test_more_than_64_steps(self) -> None:
        saga: Saga[Order, Any] = empty
        for number in range(64):
            saga = saga.then(free_step(f"step-{number}"))
        assert len(msgpack.unpackb(saga.definition)[6]) == 64
        with refused("SAGA-E117"):
            saga.then(create)

    def test_two_pivots(self) -> None:
        with refused("SAGA-E118"):
            empty.then(create, pivot=True).then(charge, pivot=True)
        with refused("SAGA-E118"):
            empty.then(create, reserve, pivot=True)

    def test_a_step_beside_the_pivot(self) -> None:
        with refused("SAGA-E119"):
            empty.then(create).step(reserve, pivot=True)
        with refused("SAGA-E119"):
            empty.then(create, pivot=True).step(reserve)
        with refused("SAGA-E119"):
            empty.step(create).step(reserve).step(charge, after=[create], pivot=True)

    def test_no_steps(self) -> None:
        with refused("SAGA-E120"):
            _ = empty.definition

    def test_what_may_have_to_be_undone_needs_a_compensation(self) -> None:
        service = Service("free")
        step = service.action(lambda_action)
        with refused("SAGA-E108"):
            _ = empty.then(step).definition
        assert empty.then(step, pivot=True).definition
        assert empty.then(create, pivot=True).then(step).definition
        step.compensation(undo_created)
        assert msgpack.unpackb(empty.then(step).definition)[6][0][3] == 2

    def test_a_promise_that_this_process_sees_broken(self) -> None:
        step = Service("free").step("step", input=Order, output=Created)
        assert empty.then(step).definition
        step.action(lambda_action)
        with refused("SAGA-E108"):
            _ = empty.then(step).definition

    @pytest.mark.parametrize(
        "options", [{"deadline": 0}, {"deadline": 1e9}, {"input_bytes": 0}, {"input_bytes": 1 << 20}]
    )
    def test_options_out_of_range(self, options: dict[str, Any]) -> None:
        with refused("SAGA-E111"):
            Saga("s", Order, **options)

    def test_an_unknown_order_of_compensation(self) -> None:
        with refused("SAGA-E111"):
            Saga("s", Order, undo="backwards")  # type: ignore[arg-type]

    def test_a_name_that_is_not_allowed(self) -> None:
        with refused("SAGA-E110"):
            Saga("place order", Order)

    def test_an_input_that_is_no_payload(self) -> None:
        with pytest.raises(PayloadError, match="SAGA-E201"):
            Saga("s", type(self))


class TestValues:
    def test_an_input_is_encoded_and_checked(self) -> None:
        saga = Saga("s", Order, input_bytes=9)
        assert msgpack.unpackb(saga.encode_input(Order(1))) == {"number": 1}
        with pytest.raises(PayloadError, match="SAGA-E204 the input of saga 's' has 17 bytes, and 9 are declared"):
            saga.encode_input(Order(2**40))
        with pytest.raises(PayloadError, match="SAGA-E202"):
            saga.encode_input(Created(1))  # type: ignore[arg-type]

    def test_every_field_of_an_input_is_looked_at(self) -> None:
        saga = Saga("s", Order)
        wrong = Order("1")  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match=r"SAGA-E202 .*Expected `int`, got `str` - at `\$\.number`"):
            saga.encode_input(wrong)
        with pytest.raises(PayloadError, match="SAGA-E202"):
            saga.encode_inputs([Order(1), wrong])
        assert saga.encode_inputs([Order(1)]) == [saga.encode_input(Order(1))]

    def test_the_result_is_the_last_steps(self) -> None:
        sections = {3: msgpack.packb({"day": "Monday"})}
        assert diamond.decode_result(sections) == Scheduled("Monday")

    def test_the_results_of_a_group_come_by_name(self) -> None:
        saga = empty.then(create).then(charge, reserve)
        sections = {1: msgpack.packb({"cents": 5}), 2: msgpack.packb({"sku": "tea"})}
        assert saga.decode_result(sections) == {"charge": Charged(5), "reserve": Reserved("tea")}

    def test_named_results_come_by_name(self) -> None:
        saga = empty.then(create).then(charge, returns=[create])
        assert saga.decode_result({0: msgpack.packb({"number": 5})}) == {"create": Created(5)}

    def test_a_missing_or_foreign_result_is_an_error(self) -> None:
        with pytest.raises(ProtocolError, match="SAGA-E501"):
            diamond.decode_result({})
        with pytest.raises(PayloadError, match="SAGA-E203"):
            diamond.decode_result({3: b"\xc0"})

    def test_its_parts_can_be_read(self) -> None:
        assert (diamond.name, diamond.input, diamond.steps) == (
            "place-order",
            Order,
            (create, charge, reserve, schedule),
        )
        assert repr(diamond) == "Saga('place-order', Order, steps=['create', 'charge', 'reserve', 'schedule'])"


DIAMOND = """\
place-order(Order), deadline 30 s

forward: 7 messages
  orders.create
    |
  payments.charge  ||  inventory.reserve
    |
  shipping.schedule (pivot)

compensation when all is to be undone: 5 messages, and 1 for the abort
  inventory.reserve
    |
  payments.charge
    |
  orders.create"""


class TestPicture:
    def test_a_diamond(self) -> None:
        chained = Saga("place-order", Order, undo="chain").then(create).then(charge, reserve).then(schedule, pivot=True)
        assert chained.describe() == DIAMOND.replace("5 messages", "4 messages")

    def test_what_is_undone_side_by_side(self) -> None:
        text = diamond.then(free_step("thank")).describe()
        assert text.splitlines()[-4:] == [
            "compensation when all is to be undone: 5 messages, and 1 for the abort",
            "  payments.charge  ||  inventory.reserve",
            "    |",
            "  orders.create (after payments.charge)",
        ]

    def test_nothing_to_undo(self) -> None:
        assert (
            empty.then(create, pivot=True)
            .describe()
            .endswith("forward: 2 messages\n  orders.create (pivot)\n\ncompensation: nothing to undo")
        )

    @pytest.mark.parametrize(
        ("before", "messages"),
        [
            ({0: set()}, 2),
            ({0: set(), 1: {0}, 2: {1}, 3: {2}}, 5),
            ({0: set(), 1: {0}, 2: {0}, 3: {1, 2}}, 7),
            ({0: set(), 1: {0}, 2: {0}, 3: {1, 2, 0}}, 7),
            ({0: set(), 1: set(), 2: set()}, 6),
        ],
    )
    def test_messages(self, before: dict[int, set[int]], messages: int) -> None:
        assert Graph(before).messages == messages


@st.composite
def sagas(draw: st.DrawFn) -> Saga[Order, Any]:
    """Any saga: steps after some earlier ones, undone before some earlier ones, in either order of compensation."""
    count = draw(st.integers(1, 12))
    steps = [free_step(f"s{number}", compensation=draw(st.booleans())) for number in range(count)]
    saga: Saga[Order, Any] = Saga("any", Order, undo=draw(st.sampled_from(["parallel", "chain"])))
    for number, step in enumerate(steps):
        earlier = st.lists(st.sampled_from(steps[:number])) if number else st.just([])
        saga = saga.step(step, after=draw(earlier), undo_before=draw(earlier))
    if draw(st.booleans()):
        saga = saga.then(free_step("decide"), pivot=True).then(free_step("thank"))
    return saga


@given(sagas())
def test_the_compiler_and_the_picture_see_the_same_orders(saga: Saga[Order, Any]) -> None:
    plan = saga.plan.describe()
    names = [step.name for step in saga.steps]
    text = saga.describe()
    for order, found in (
        (plan["forward"], re.search(r"^forward: (\d+) message", text, re.MULTILINE)),
        (plan["undo"], re.search(r"^compensation when all is to be undone: (\d+) message", text, re.MULTILINE)),
    ):
        assert order["messages"] == (int(found[1]) if found else 0)
    undo = {(names[v], names[u]) for u, before in saga._undo_order().parents.items() for v in before}
    assert {(v, u) for v, u in plan["undo"]["edges"] if u is not None} == undo


@given(sagas())
def test_a_picture_shows_every_step_once_in_each_order(saga: Saga[Order, Any]) -> None:
    forward, _, undo = re.sub(r" \(after [^)]*\)", "", saga.describe()).partition("\ncompensation")
    assert sorted(re.findall(r"free\.(\w+)", forward)) == sorted(step.name for step in saga.steps)
    marked = [name for name, _, _, flags, *_ in msgpack.unpackb(saga.definition)[6] if flags & 2]
    assert sorted(re.findall(r"free\.(\w+)", undo)) == sorted(marked)


def test_the_plan_is_compiled_once() -> None:
    assert diamond.plan is diamond.plan
    assert diamond.plan.messages == 7
    assert diamond.plan.steps == ["create", "charge", "reserve", "schedule"]


def test_what_the_compiler_refuses_has_a_code_and_its_rule() -> None:
    big = [free_step(f"s{n}", output=type(f"B{n}", (Struct,), {}), result_bytes=16 * 1024) for n in range(5)]
    last = Service("free").step("last", input=Order, needs=[step.output for step in big])
    saga = empty.then(*big).then(last)
    with refused("SAGA-E121") as error:
        _ = saga.plan
    assert "plan.token is the broken rule" in error.value.hint


def test_the_limits_are_those_of_the_core() -> None:
    from sagacore import _core

    ours = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert len(ours) == 13
    assert ours.items() <= _core.limits().items()
