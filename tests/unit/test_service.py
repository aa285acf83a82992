"""Services, steps and handlers: what is read from a function, and what is refused."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

from sagacore import Context, DefinitionError, FenceError, PayloadError, Rejected, Retry, Service, Step
from sagacore.steps import Action


class Order(Struct, frozen=True):
    number: int


class Created(Struct, frozen=True):
    number: int


class Charged(Struct, frozen=True):
    cents: int


class Other(Struct):
    pass


CONTEXT = Context(bytes(16), "step", "00" * 24)


@pytest.fixture
def service() -> Service:
    return Service("payments")


@pytest.fixture
def charge(service: Service) -> Step[Order, Charged]:
    return service.step("charge", input=Order, output=Charged, needs=[Created])


def implementation(step: Step[Any, Any]) -> Action:
    assert step.implementation is not None
    return step.implementation


def refused(code: str) -> Any:
    return pytest.raises(DefinitionError, match=code)


def test_a_contract_has_all_but_the_functions(service: Service, charge: Step[Order, Charged]) -> None:
    assert (charge.name, charge.service, charge.title) == ("charge", "payments", "payments.charge")
    assert (charge.input, charge.output, charge.needs) == (Order, Charged, (Created,))
    assert (charge.result_bytes, charge.implementation, charge.undo) == (256, None, None)
    assert service.steps == [charge]


def test_a_function_becomes_a_step_of_its_own_types(service: Service) -> None:
    @service.action
    def reserve(order: Order, created: Created, ctx: Context) -> Charged:
        return Charged(order.number + created.number + ctx.attempt)

    assert repr(reserve) == "Step(payments.reserve: Order -> Charged)"
    assert reserve.needs == (Created,)
    action = implementation(reserve)
    assert (action.is_async, action.external, action.timeout_s, action.retry) == (False, False, 10.0, Retry())
    assert action.wants_context
    assert action.bind(Order(1), (Created(2),), CONTEXT) == Charged(4)


def test_a_contract_is_implemented_with_options(charge: Step[Order, Charged]) -> None:
    @charge.action(timeout=3, retry=Retry(tries=2), external=True)
    def take(order: Order, created: Created) -> Charged:
        return Charged(created.number)

    assert take is charge
    action = implementation(charge)
    assert (action.is_async, action.external, action.timeout_s, action.retry.tries) == (False, True, 3.0, 2)
    assert action.needs[0].decode(b"\x81\xa6number\x07") == Created(7)
    assert action.input.decode(b"\x81\xa6number\x07") == Order(7)
    assert action.output.encode(Charged(7)) == b"\x81\xa5cents\x07"
    with pytest.raises(PayloadError, match="SAGA-E202"):
        action.output.encode(Order(7))


def test_an_async_function_is_external(charge: Step[Order, Charged]) -> None:
    @charge.action
    async def _(order: Order, created: Created) -> Charged:
        return Charged(order.number)

    action = implementation(charge)
    assert action.is_async
    assert action.external
    assert asyncio.run(action.bind(Order(5), (Created(1),), CONTEXT)) == Charged(5)


def plain(order: Order) -> str:
    return f"{order.number}"


def with_context(order: Order, ctx: Context) -> str:
    return f"{order.number} {ctx.step}"


def with_results(order: Order, created: Created, charged: Charged) -> str:
    return f"{order.number} {created.number} {charged.cents}"


def context_last(order: Order, created: Created, charged: Charged, ctx: Context) -> str:
    return f"{order.number} {created.number} {charged.cents} {ctx.step}"


def context_between(order: Order, created: Created, ctx: Context, charged: Charged) -> str:
    return f"{order.number} {created.number} {charged.cents} {ctx.step}"


def context_first(order: Order, ctx: Context, created: Created, charged: Charged) -> str:
    return f"{order.number} {created.number} {charged.cents} {ctx.step}"


def other_order(order: Order, charged: Charged, created: Created) -> str:
    return f"{order.number} {created.number} {charged.cents}"


def other_order_and_context(order: Order, charged: Charged, ctx: Context, created: Created) -> str:
    return f"{order.number} {created.number} {charged.cents} {ctx.step}"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, "1"),
        (with_context, "1 step"),
        (with_results, "1 2 3"),
        (context_last, "1 2 3 step"),
        (context_between, "1 2 3 step"),
        (context_first, "1 2 3 step"),
        (other_order, "1 2 3"),
        (other_order_and_context, "1 2 3 step"),
    ],
)
def test_results_are_bound_in_the_order_of_the_contract(
    service: Service, function: Callable[..., str], expected: str
) -> None:
    needs = [Created, Charged] if "2" in expected else []
    step = service.step("step", input=Order, output=str, needs=needs)
    step.action(function)
    results = (Created(2), Charged(3)) if needs else ()
    assert implementation(step).bind(Order(1), results, CONTEXT) == expected


def test_objects_and_partials_can_be_handlers(service: Service) -> None:
    class Gateway:
        async def __call__(self, order: Order, created: Created) -> Charged:
            return Charged(order.number)

    def take(rate: int, order: Order) -> Charged:
        return Charged(rate * order.number)

    step = service.action(name="gateway")(Gateway())
    assert implementation(step).is_async
    assert step.needs == (Created,)
    other = service.action(name="take")(functools.partial(take, 3))
    assert implementation(other).bind(Order(2), (), CONTEXT) == Charged(6)


@pytest.mark.parametrize("number", [1, None])
def test_a_compensation_gets_the_result_or_none(charge: Step[Order, Charged], number: int | None) -> None:
    seen: list[Any] = []

    @charge.compensation(timeout=2, retry=Retry(first_ms=1))
    def refund(order: Order, charged: Charged | None, ctx: Context) -> None:
        seen.append((order, charged, ctx.step))

    assert refund is charge
    undo = charge.undo
    assert undo is not None
    assert (undo.is_async, undo.external, undo.timeout_s, undo.retry.first_ms) == (False, False, 2.0, 1)
    result = None if number is None else Charged(number)
    undo.bind(Order(4), result, CONTEXT)
    assert seen == [(Order(4), result, "step")]
    assert undo.result.decode(b"\x81\xa5cents\x07") == Charged(7)


def test_a_compensation_may_do_without_a_context(charge: Step[Order, Charged]) -> None:
    seen: list[Any] = []

    @charge.compensation
    def _(order: Order, charged: Charged | None) -> None:
        seen.append(charged)

    assert charge.undo is not None
    charge.undo.bind(Order(4), None, CONTEXT)
    assert seen == [None]


def test_a_step_without_a_result_is_compensated_with_none(service: Service) -> None:
    step = service.step("tell", input=Order)

    @step.compensation
    def _(order: Order, nothing: None) -> None: ...

    assert step.output is type(None)
    assert step.undo is not None


def test_whether_a_step_can_be_undone_is_declared_or_seen(service: Service) -> None:
    assert service.step("contract", input=Order).compensable
    assert not service.step("reading", input=Order, compensation=False).compensable
    step = service.action(plain)
    assert not step.compensable
    step.compensation(undo_text)
    assert step.compensable


def undo_text(order: Order, text: str | None) -> None: ...


class TestRefusedHandlers:
    def test_parameters_that_cannot_be_read(self, service: Service) -> None:
        def no_annotation(order: Order, created): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        def keyword(order: Order, *, created: Created) -> Charged: ...  # type: ignore[empty-body]
        def many(order: Order, *created: Created) -> Charged: ...  # type: ignore[empty-body]
        def two_contexts(order: Order, a: Context, b: Context) -> Charged: ...  # type: ignore[empty-body]
        def unknown(order: Order, x: "Nowhere") -> Charged: ...  # type: ignore[name-defined, empty-body]  # noqa: F821

        for function in (no_annotation, keyword, many, two_contexts, unknown):
            with refused("SAGA-E101"):
                service.action(function)
        assert service.steps == []

    def test_a_first_parameter_that_is_not_the_input(self, service: Service) -> None:
        def nothing() -> Charged: ...  # type: ignore[empty-body]
        def context(ctx: Context, order: Order) -> Charged: ...  # type: ignore[empty-body]

        for function in (nothing, context):
            with refused("SAGA-E102"):
                service.action(function)  # type: ignore[arg-type]

    def test_other_types_than_the_contract_says(self, charge: Step[Order, Charged]) -> None:
        def takes(other: Other, created: Created) -> Charged: ...  # type: ignore[empty-body]
        def returns(order: Order, created: Created) -> Other: ...  # type: ignore[empty-body]
        def lacks(order: Order) -> Charged: ...  # type: ignore[empty-body]
        def adds(order: Order, created: Created, other: Other) -> Charged: ...  # type: ignore[empty-body]
        def repeats(order: Order, created: Created, again: Created) -> Charged: ...  # type: ignore[empty-body]

        for function in (takes, returns, lacks, adds, repeats):
            with refused("SAGA-E103"):
                charge.action(function)  # type: ignore[arg-type]
        assert charge.implementation is None

    def test_one_need_asked_for_twice_and_another_not_at_all(self, service: Service) -> None:
        def repeats(order: Order, created: Created, again: Created) -> str: ...  # type: ignore[empty-body]

        with refused("SAGA-E103"):
            service.step("step", input=Order, output=str, needs=[Created, Charged]).action(repeats)

    def test_another_type_of_the_same_name(self, charge: Step[Order, Charged]) -> None:
        same_name = type("Charged", (Struct,), {})

        def take(order: Order, created: Created) -> Any: ...

        take.__annotations__["return"] = same_name
        with refused("SAGA-E103"):
            charge.action(take)

    def test_no_annotation_of_the_result(self, service: Service, charge: Step[Order, Charged]) -> None:
        def silent(order: Order, created: Created): ...  # type: ignore[no-untyped-def]  # noqa: ANN202

        with refused("SAGA-E104"):
            charge.action(silent)
        with refused("SAGA-E104"):
            service.action(silent)

    def test_a_second_function(self, service: Service) -> None:
        step = service.action(plain)
        with refused("SAGA-E106"):
            step.action(plain)
        step.compensation(undo_text)
        with refused("SAGA-E106"):
            step.compensation(undo_text)

    def test_a_compensation_with_other_parameters(self, charge: Step[Order, Charged]) -> None:
        def certain(order: Order, charged: Charged) -> None: ...
        def another(order: Order, created: Created | None) -> None: ...
        def none_at_all(order: Order) -> None: ...
        def too_many(order: Order, charged: Charged | None, created: Created) -> None: ...
        def context_first(order: Order, ctx: Context, charged: Charged | None) -> None: ...
        def gives(order: Order, charged: Charged | None) -> Charged: ...  # type: ignore[empty-body]
        def other_input(other: Other, charged: Charged | None) -> None: ...

        for function in (certain, another, none_at_all, too_many, context_first, gives, other_input):
            with refused("SAGA-E107"):
                charge.compensation(function)  # type: ignore[arg-type]
        assert charge.undo is None

    def test_a_compensation_that_was_declared_away(self, service: Service) -> None:
        step = service.step("read", input=Order, output=str, compensation=False)
        with refused("SAGA-E122"):
            step.compensation(undo_text)

    def test_async_and_transactional_at_once(self, charge: Step[Order, Charged]) -> None:
        async def take(order: Order, created: Created) -> Charged: ...  # type: ignore[empty-body]

        with refused("SAGA-E111"):
            charge.action(external=False)(take)

    def test_one_type_asked_for_twice(self, service: Service) -> None:
        def twice(order: Order, a: Created, b: Created) -> Charged: ...  # type: ignore[empty-body]

        with refused("SAGA-E113"):
            service.action(twice)

    def test_types_that_are_no_payloads(self, service: Service) -> None:
        class Opaque:
            pass

        with pytest.raises(PayloadError, match="SAGA-E201"):
            service.step("opaque", input=Order, output=Opaque)
        with pytest.raises(PayloadError, match="SAGA-E201"):
            service.step("opaque", input=Order, output=Charged, needs=[Opaque])


@pytest.mark.parametrize("name", ["", "_", "<lambda>", "a b", "a/b", "-a", "x" * 101, "caf\u00e9", "a\n"])
def test_names_that_are_not_allowed(service: Service, name: str) -> None:
    with refused("SAGA-E110"):
        Service(name)
    with refused("SAGA-E110"):
        service.step(name, input=Order)


def test_a_service_has_one_step_of_a_name(service: Service, charge: Step[Order, Charged]) -> None:
    with refused("SAGA-E109"):
        service.step("charge", input=Order)
    assert service.steps == [charge]


@pytest.mark.parametrize("timeout", [0, -1, 1e9, 0.0001])
def test_timeouts_out_of_range(service: Service, timeout: float) -> None:
    with refused("SAGA-E111"):
        service.action(timeout=timeout)


@pytest.mark.parametrize("result_bytes", [0, -1, 16 * 1024 + 1])
def test_sizes_out_of_range(service: Service, result_bytes: int) -> None:
    with refused("SAGA-E111"):
        service.step("step", input=Order, result_bytes=result_bytes)


class TestServing:
    def test_every_step_needs_an_action(self, service: Service, charge: Step[Order, Charged]) -> None:
        with refused("SAGA-E105"):
            service.check()

    def test_a_contract_that_promises_a_compensation_needs_one(
        self, service: Service, charge: Step[Order, Charged]
    ) -> None:
        @charge.action
        def _(order: Order, created: Created) -> Charged: ...  # type: ignore[empty-body]

        with refused("SAGA-E108"):
            service.check()

        @charge.compensation
        def _(order: Order, charged: Charged | None) -> None: ...

        service.check()

    def test_a_step_that_promises_none_needs_none(self, service: Service) -> None:
        service.action(plain)
        service.step("read", input=Order, output=str, compensation=False).action(plain)
        service.check()


class TestRetry:
    def test_rests_double_up_to_the_last(self) -> None:
        retry = Retry(first_ms=50, last_ms=300)
        assert [retry.delay_ms(tries) for tries in (1, 2, 3, 4, 5, 10_000)] == [50, 100, 200, 300, 300, 300]

    @pytest.mark.parametrize("figures", [(0, 1, 1), (1, -1, 1), (1, 2, 1), (1, 1, 600_001)])
    def test_figures_that_make_no_sense(self, figures: tuple[int, int, int]) -> None:
        with refused("SAGA-E111"):
            Retry(*figures)


def test_a_rejection_has_a_reason() -> None:
    assert Rejected("over limit").reason == str(Rejected("over limit")) == "over limit"
    assert Rejected().reason == ""


class TestContext:
    saga = bytes.fromhex("2a00000000000000dec0001f01000000")

    def test_it_tells_about_the_call(self) -> None:
        context = Context(self.saga, "charge", "ab12", attempt=2, tries=3, deadline_ms=1_000)
        assert context.saga_id == "1-2a-1f00c0de"
        assert (context.idempotency_key, context.attempt, context.tries, context.deadline_ms) == ("ab12", 2, 3, 1_000)
        assert repr(context) == "saga=1-2a-1f00c0de step=charge attempt=2 tries=3"

    def test_there_is_no_database_with_fences_in_memory(self) -> None:
        with pytest.raises(FenceError, match="SAGA-E402"):
            _ = Context(self.saga, "charge", "").db

    def test_an_external_action_has_no_transaction(self) -> None:
        with pytest.raises(FenceError, match="SAGA-E403"):
            _ = Context(self.saga, "charge", "", external=True).db
