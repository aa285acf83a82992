"""The limit: what these processes, hops, frames and syncs take when no saga is in them.

client -> broker -> orders -> broker -> payments -> broker -> inventory -> broker -> shipping -> broker -> client

Each is a process of its own over ZeroMQ, as in the product. A message has a header of 128 bytes and the body that the
product's has: the order and the results that later steps need. Each service decodes and encodes it once, typed; the
broker routes message by message and writes all that it passes on to a log, which a thread syncs. Messages go in
batches, as many as there are. Nothing is checked, fenced, remembered, leased or repeated: what a saga engine does
beyond this is what it costs.
"""
