"""What travels: messages back to back in a frame, each a header of 128 bytes and a body in MessagePack.

```text
  0  4 bytes  length of header and body
  4  1 byte   hop: the place on the route that the message is for
  5  1 byte   zero
  6  2 bytes  length of header and order: what follows is the result
  8  8 bytes  number of the saga at its client
 16  112 bytes zero: the product has more to say here
128  the body: an array of the order and the result
```
"""

import struct

import msgspec

from sagacore.demo.plant import SERVICES
from sagacore.demo.shop.contracts import Order

HEADER_BYTES = 128
FRAME_BYTES_MAX = 1 << 20
HEAD = struct.Struct("<IBxHQ112x")
LENGTHS = struct.Struct("<IBxH")
"""The first three fields."""
HOP_AT = 4
assert HEAD.size == HEADER_BYTES

PEERS = ("client", "coordinator", *SERVICES)
ROUTE = (*SERVICES, "client")
"""Whom a saga's messages are for, one after another."""
ROUTE_VIA_COORDINATOR = ("coordinator", *SERVICES, "coordinator", "client")
"""The same where the coordinator starts a saga and ends it."""


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a step has to say."""

    number: int


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The order, and the result of the step before."""

    order: Order
    result: Result


encoder = msgspec.msgpack.Encoder()
decoder = msgspec.msgpack.Decoder(Body)


def identity(peer: str) -> bytes:
    """The name of a peer at the broker's socket."""
    return peer.encode()
