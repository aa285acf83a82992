"""Kills are spread evenly, and every kind of process has its turn."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagacore.demo.kills import plan_kills

ROLES = [["broker"], ["coordinator-1", "coordinator-2"], ["orders"], ["payments"], ["inventory"], ["shipping"]]


def test_six_kills_hit_every_role_once() -> None:
    kills = plan_kills(6, 700, ROLES)
    assert [kill.process for kill in kills] == [
        "broker",
        "coordinator-1",
        "orders",
        "payments",
        "inventory",
        "shipping",
    ]
    assert [kill.after_ended for kill in kills] == [100, 200, 300, 400, 500, 600]


def test_the_second_lap_takes_the_second_process_of_a_role() -> None:
    processes = [kill.process for kill in plan_kills(12, 1_000, ROLES)]
    assert processes.count("broker") == 2
    assert {"coordinator-1", "coordinator-2"} <= set(processes)


def test_no_kills_are_no_kills() -> None:
    assert plan_kills(0, 100, ROLES) == []


@given(count=st.integers(6, 60), orders=st.integers(100, 100_000))
def test_kills_come_in_order_within_the_run_and_evenly(count: int, orders: int) -> None:
    kills = plan_kills(count, orders, ROLES)
    points = [0, *(kill.after_ended for kill in kills), orders]
    gaps = [later - earlier for earlier, later in itertools.pairwise(points)]
    assert len(kills) == count
    assert max(gaps) - min(gaps) <= 1
    hits = [sum(kill.process in role for kill in kills) for role in ROLES]
    assert max(hits) - min(hits) <= 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_kills_than_roles_hit_different_ones(count: int) -> None:
    assert len({kill.process for kill in plan_kills(count, 100, ROLES)}) == count
