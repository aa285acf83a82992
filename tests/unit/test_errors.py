"""Every error has a code, a sentence and a hint, and docs/errors.md explains every code and no other."""

import pickle
import re
from pathlib import Path

import pytest

from sagacore import errors
from sagacore.errors import (
    CODES,
    BrokerUnavailable,
    DefinitionError,
    OutcomeTimeout,
    SagacoreError,
    StartRefused,
    UnknownSaga,
)

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"SAGA-E\d{3}")


def codes_in_sources() -> set[str]:
    sources = [path for path in (ROOT / "python/sagacore").rglob("*.py") if path.name != "errors.py"]
    return {code for path in sources for code in CODE.findall(path.read_text())}


def test_an_error_shows_code_message_and_hint() -> None:
    error = DefinitionError("SAGA-E120", "saga 'x' has no steps", "add them")
    assert str(error) == "SAGA-E120 saga 'x' has no steps\nhint: add them"
    assert (error.code, error.message, error.hint) == ("SAGA-E120", "saga 'x' has no steps", "add them")


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(OutcomeTimeout("SAGA-E304", "too late", "wait longer")))  # noqa: S301
    assert isinstance(error, OutcomeTimeout)
    assert error.hint == "wait longer"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(BrokerUnavailable, ConnectionError), (OutcomeTimeout, TimeoutError), (UnknownSaga, LookupError)],
)
def test_errors_are_also_what_python_calls_them(error: type[SagacoreError], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


def test_a_full_broker_may_be_asked_again_and_a_refused_plan_not() -> None:
    assert StartRefused("SAGA-E302", "full", "later").retryable
    assert not StartRefused("SAGA-E308", "bad plan", "change it").retryable


def test_all_errors_have_one_base() -> None:
    classes = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    assert len(classes) > 5
    assert all(issubclass(thing, SagacoreError) for thing in classes)


def test_every_code_that_is_raised_is_known() -> None:
    assert codes_in_sources() <= CODES.keys()


def test_the_manual_explains_every_code_and_no_other() -> None:
    manual = (ROOT / "docs/errors.md").read_text()
    entries = re.findall(r"^### (SAGA-E\d{3}): (.+)$", manual, re.MULTILINE)
    assert [code for code, _ in entries] == sorted(CODES)
    assert dict(entries) == CODES
    assert set(CODE.findall(manual)) == CODES.keys()


def test_the_manual_says_what_to_do_about_every_code() -> None:
    manual = (ROOT / "docs/errors.md").read_text()
    for entry in re.split(r"^### ", manual, flags=re.MULTILINE)[1:]:
        assert re.search(r"^\*\*Cause\.\*\* \S", entry, re.MULTILINE), entry[:80]
        assert re.search(r"^\*\*What to do\.\*\* \S", entry, re.MULTILINE), entry[:80]


def test_the_manual_names_every_rule_of_the_plan_compiler() -> None:
    rules = re.findall(r'"?(plan\.\w+): ', (ROOT / "rust/core/src/plan/error.rs").read_text())
    manual = (ROOT / "docs/errors.md").read_text()
    assert len(set(rules)) > 10
    assert set(re.findall(r"`(plan\.\w+)`", manual)) == set(rules)
