"""The count of instructions lets through what is as short as it was, and notices what is longer."""

import pytest

from bench.instructions import (
    CHANGE_MAX,
    CHANGE_MAX_OTHER_RUSTC,
    OPERATIONS,
    Baseline,
    build,
    count,
    is_valgrind_there,
    judge,
    paths,
)

BASELINE = Baseline(rustc="rustc 1", paths={"join": 1_000, "run": 2_000})


def counted(**changes: float) -> dict[str, int]:
    return {name: round(count * (1 + changes.get(name, 0))) for name, count in BASELINE.paths.items()}


@pytest.mark.parametrize("change", [CHANGE_MAX, 0, -CHANGE_MAX])
def test_what_is_within_the_limit_passes(change: float) -> None:
    judgement = judge(counted(join=change), BASELINE, rustc="rustc 1")
    assert judgement.problems == judgement.better == []


def test_a_longer_path_is_named() -> None:
    judgement = judge(counted(run=CHANGE_MAX + 0.001), BASELINE, rustc="rustc 1")
    assert judgement.better == []
    [problem] = judgement.problems
    assert "run takes 2,202 instructions, +10.1% against 2,000" in problem


def test_a_shorter_path_asks_for_a_new_baseline() -> None:
    judgement = judge(counted(join=-CHANGE_MAX - 0.001), BASELINE, rustc="rustc 1")
    assert judgement.problems == []
    assert len(judgement.better) == 1


def test_another_compiler_has_a_wider_limit() -> None:
    assert judge(counted(run=CHANGE_MAX_OTHER_RUSTC), BASELINE, rustc="rustc 2").problems == []
    assert len(judge(counted(run=CHANGE_MAX_OTHER_RUSTC + 0.001), BASELINE, rustc="rustc 2").problems) == 1


def test_every_path_has_a_baseline_and_every_baseline_a_path() -> None:
    assert len(judge({"join": 1_000}, BASELINE, rustc="rustc 1").problems) == 1
    assert len(judge(counted() | {"new": 1}, BASELINE, rustc="rustc 1").problems) == 1
    assert len(judge(counted(), None, rustc="rustc 1").problems) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not is_valgrind_there(), reason="valgrind is missing, which counts the instructions")
def test_work_done_twice_is_noticed() -> None:
    # The first build may take minutes.
    build()
    name = next(name for name in paths() if name == "coordinator-join")
    once, again, worse = count(name), count(name), count(name, "--worse")
    assert again == pytest.approx(once, rel=0.01), f"{OPERATIONS} operations are the same work each time"
    baseline = Baseline(rustc="rustc 1", paths={name: once})
    assert judge({name: again}, baseline, rustc="rustc 1").problems == []
    assert len(judge({name: worse}, baseline, rustc="rustc 1").problems) == 1
