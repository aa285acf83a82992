"""What perf writes is read as it is, and each role's CPU is shared out by its samples."""

import pytest

from bench.figures import Figures
from bench.hot_spots import Sample, attribute, samples
from bench.markdown import render
from tests.bench.test_report import measured

TEXT = """
   11     7f3a5c0aa2d1 <sagacore_broker::State as Clone>::apply::h0123456789abcdef (/p/sagacore/_core.abi3.so)
   11     7f3a5c0aa2d2 _int_malloc (/usr/lib/x86_64-linux-gnu/libc.so.6)
   11     7f3a5c0aa2d3 __memmove_avx_unaligned_erms (/usr/lib/x86_64-linux-gnu/libc.so.6)
   11 ffffffff81a2b3c4 _raw_spin_unlock_irqrestore ([kernel.kallsyms])
   22     55d0c1e2f3a4 _PyEval_EvalFrameDefault (/usr/bin/python3.11)
   22     7f3a5c0aa2d4 [unknown] (/v/site-packages/msgspec/_core.cpython-311-x86_64-linux-gnu.so)
   22     7f3a5c0aa2d5 zmq::mailbox_t::recv(zmq::command_t*, int) (/v/pyzmq.libs/libzmq-a430b4ce.so.5)
perf: something else
"""


def test_samples_are_read_by_line() -> None:
    found = list(samples(TEXT))
    assert [sample.pid for sample in found] == [11] * 4 + [22] * 3
    assert found[0] == Sample(11, "<sagacore_broker::State as Clone>::apply", "/p/sagacore/_core.abi3.so")
    areas = ["the cores", "allocation", "others", "kernel", "Python", "msgspec", "ZeroMQ"]
    assert [sample.area for sample in found] == areas


def test_the_cpu_of_a_role_is_shared_out() -> None:
    cpu = {"client": 2.0, "broker": 8.0, "coordinator": 0.1, "services": 6.0}
    figures = Figures(in_flight=64, sagas=100, sagas_per_s=1_000.0, p50_ms=1.0, p99_ms=2.0, cpu_us_per_saga=cpu)
    found = attribute(samples(TEXT), {11: "broker", 22: "services"}, figures)
    assert found.by_area["broker"]["the cores"] == pytest.approx(2.0)
    assert sum(found.by_area["broker"].values()) == pytest.approx(8.0)
    assert sum(found.by_area["services"].values()) == pytest.approx(6.0)
    assert sum(found.by_area["client"].values()) == 0  # nobody has seen it run
    assert list(found.functions.values()) == [2.0]
    row = {
        "what": "completed",
        "sagas_per_s": 1_000,
        "cpu_us_per_saga": found.by_area,
        "broker_functions_us_per_saga": found.functions,
    }
    page = render(
        {"profile": measured({"durability": "sync", "visibility": "relaxed", "in_flight": 64, "rows": [row]})}
    )
    assert "| the cores | 0.00 | 2.00 | 0.00 | 0.00 |" in page
