"""Measures sagacore on real processes: `python -m bench throughput | latency | memory | ...`, each with `--json`.

Everything is included: the client through its public face, the broker, the coordinator and the four services of the
shop, each its own process, with effects and fences in memory. Figures are printed as a table, and with `--json` as one
JSON object on the last line. Every figure comes with the durability that it was taken at. `bare` is the limit: the same
processes, hops and frames without any saga.
"""
