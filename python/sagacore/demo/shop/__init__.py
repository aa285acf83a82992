"""A shop of four services, each its own process with its own store, and the saga that places an order over them.

Read it in this order: `contracts` (what the teams share), `saga` (the steps and what comes after what), then one
module for each service: `orders`, `payments` (with `gateway`, the payment provider that it calls), `inventory` and
`shipping`. `tables` opens the shop: empty books, full shelves. `customers` makes the orders that come in.
`memory` implements the same four services without any store, for the benchmarks.
"""
