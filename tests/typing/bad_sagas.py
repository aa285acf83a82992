"""Sagas that a strict type checker must refuse: each ignored error must be there."""

from sagacore import Saga
from tests.typing.shop import Charged, Created, Order, Parcel, announce, charge, create, weigh

empty = Saga("place-order", Order)
chain = empty.then(create).then(charge)

empty.then(weigh)  # type: ignore[arg-type]
empty.then(create, weigh)  # type: ignore[arg-type]
empty.then(create, returns=[weigh])  # type: ignore[list-item]
empty.step(weigh, after=[create])  # type: ignore[arg-type]
empty.then()  # type: ignore[call-overload]
empty.then("create")  # type: ignore[call-overload]
Saga("place-order", Order(1))  # type: ignore[arg-type]
Saga("place-order", Order, undo="backwards")  # type: ignore[arg-type]
Saga("place-order", Order, deadline="30s")  # type: ignore[arg-type]

wrong_result: Saga[Order, Created] = chain  # type: ignore[assignment]
wrong_input: Saga[Parcel, Charged] = chain  # type: ignore[assignment]
no_result: Saga[Order, Charged] = chain.then(announce)  # type: ignore[arg-type]
chain.encode_input(Parcel(1.0))  # type: ignore[arg-type]
chain.encode_input("order")  # type: ignore[arg-type]
created: Created = chain.decode_result({})  # type: ignore[assignment]
