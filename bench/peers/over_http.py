"""A client that places each order with one HTTP request, which is answered with the saga's outcome."""

import itertools
from collections.abc import Sequence

import aiohttp

from bench.peers.load import drive
from bench.peers.shop import Order, Outcome


async def drive_over_http(urls: Sequence[str], arguments: Sequence[str]) -> None:
    """Run the closed loop against these addresses in turn, over connections that are kept open."""
    turns = itertools.cycle(urls)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def place(order: Order) -> Outcome:
            async with session.post(next(turns), json=order) as response:
                response.raise_for_status()
                outcome: Outcome = await response.json()
                return outcome

        await drive(place, arguments)
