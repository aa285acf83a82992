"""A payment provider, as its customers see it: slow, outside, and idempotent by key.

It keeps its own books in its own file and shares no transaction with anybody. What it promises is what real ones
promise: a repeated charge with the same key gives the first receipt again, a refund of a key that was never charged
makes sure that it never will be, and a repeated refund does nothing.
"""

import asyncio
import functools
import os
import sqlite3
from collections.abc import Callable

FILE_VARIABLE = "SAGACORE_SHOP_GATEWAY"
"""Names the file of the provider's books; `gateway.db` in the current folder if it is not set."""
SHOP_ACCOUNT = "the shop"


class Declined(Exception):
    """The provider says no, and will say no to this key for ever."""


class Gateway:
    """The provider. What is asked within one turn of the event loop is settled in one commit, as a busy one does."""

    def __init__(self, path: str) -> None:
        self._books = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        self._books.execute("pragma journal_mode = wal")
        self._books.execute("pragma synchronous = normal")
        self._asked: list[tuple[asyncio.Future[int], Callable[[], int]]] = []

    async def charge(self, *, key: str, order_id: str, customer: str, cents: int) -> int:
        """Move `cents` from the customer to the shop and return the receipt's number.

        Raises `Declined` if the key was cancelled.
        """
        return await self._ask(functools.partial(self._charge, key, order_id, customer, cents))

    async def refund(self, *, key: str, order_id: str) -> None:
        """Give back what was charged with this key, or see to it that nothing ever is."""
        await self._ask(functools.partial(self._refund, key, order_id))

    def close(self) -> None:
        """Close the books. What was asked and not settled is lost, as it is when the line to a provider breaks."""
        self._books.close()

    def _ask(self, request: Callable[[], int]) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        if not self._asked:
            loop.call_soon(self._settle)
        self._asked.append((answer, request))
        return answer

    def _settle(self) -> None:
        asked, self._asked = self._asked, []
        answers: list[int | Exception] = []
        try:
            self._books.execute("begin immediate")
            for _, request in asked:
                try:
                    answers.append(request())
                except Declined as declined:
                    answers.append(declined)
            self._books.execute("commit")
        except sqlite3.Error as error:
            if self._books.in_transaction:
                self._books.execute("rollback")
            answers = [error for _ in asked]
        for (future, _), answer in zip(asked, answers, strict=True):
            if future.done():  # the caller has stopped waiting
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _charge(self, key: str, order_id: str, customer: str, cents: int) -> int:
        known = self._books.execute("select receipt, state from charges where key = ?", (key,)).fetchone()
        if known is not None:
            receipt, state = known
            if state == "cancelled":
                raise Declined(f"the charge for {order_id} was cancelled")
            return int(receipt)
        receipt = self._books.execute(
            "insert into charges (key, order_id, customer, cents, state) values (?, ?, ?, ?, 'charged')",
            (key, order_id, customer, cents),
        ).lastrowid
        self._post(order_id, customer, SHOP_ACCOUNT, cents)
        return receipt or 0

    def _refund(self, key: str, order_id: str) -> int:
        known = self._books.execute("select receipt, state, customer, cents from charges where key = ?", (key,))
        row = known.fetchone()
        if row is None:
            self._books.execute(
                "insert into charges (key, order_id, customer, cents, state) values (?, ?, '', 0, 'cancelled')",
                (key, order_id),
            )
            return 0
        receipt, state, customer, cents = row
        if state == "charged":
            self._books.execute("update charges set state = 'cancelled' where receipt = ?", (receipt,))
            self._post(order_id, SHOP_ACCOUNT, customer, cents)
        return int(receipt)

    def _post(self, order_id: str, payer: str, payee: str, cents: int) -> None:
        self._books.execute("update accounts set cents = cents - ? where name = ?", (cents, payer))
        self._books.execute("update accounts set cents = cents + ? where name = ?", (cents, payee))
        self._books.execute(
            "insert into postings (order_id, payer, payee, cents) values (?, ?, ?, ?)", (order_id, payer, payee, cents)
        )


@functools.cache
def gateway() -> Gateway:
    """The one gateway of this process, opened at the first use."""
    return Gateway(os.environ.get(FILE_VARIABLE, "gateway.db"))
