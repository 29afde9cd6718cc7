"""Values below the level of modules: matching them, nesting calls, and blaming the right function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff.inside.allowance import Allowance
from firstdiff.diff.inside.blame import Half, blame, counterpart
from firstdiff.diff.inside.calls import calls_of
from firstdiff.diff.inside.values import Values
from firstdiff.traces import Header, Key, TraceWriter, open_trace

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
LOWEST = np.finfo(np.float32).min


@pytest.fixture
def side(tmp_path: Path):
    """``side(name, [(method, site, leaf, value), ...])``: one module's values as an open trace."""
    opened = []

    def make(name, rows, path="m"):
        name = f"{name}{len(opened)}"
        with TraceWriter(tmp_path / f"{name}.h5", Header(framework="torch")) as writer:
            calls: dict[str, int] = {}
            for method, site, leaf, value in rows:
                base = method.partition("#")[0]
                number = calls.setdefault(method, sum(m.partition("#")[0] == base for m in calls))
                key = Key(path, site, leaf, base, number)
                value = np.ascontiguousarray(value)
                writer.write(
                    key, value, dtype=str(value.dtype), class_name="M.forward", source="m.py:1"
                )
            writer.finish()
        opened.append(open_trace(tmp_path / f"{name}.h5"))
        return opened[-1]

    yield make
    for trace in opened:
        trace.close()


def half(trace, side):
    recorded = [*trace.activations, *trace.deeper]
    values = Values(side, trace, recorded, Allowance("float32"))
    return Half(trace, calls_of(trace.deeper), values)


def is_held(side, here, there):
    ours = side("ours", [("f()", "output", "", here)])
    theirs = side("theirs", [("g()", "output", "", there)])
    values = Values("reference", ours, ours.deeper, Allowance("float32"))
    return values.has(theirs, theirs.deeper[0])


def test_a_value_in_another_layout_is_held(side):
    assert is_held(side, X, X.reshape(2, 12))


def test_a_value_with_rounding_is_held_and_one_with_a_mistake_is_not(side):
    assert is_held(side, X, X * np.float32(1 + 1e-6))
    assert not is_held(side, X, X * np.float32(1.001))


def test_the_same_shape_in_another_order_is_not_held(side):
    assert not is_held(side, X, X[::-1])


def test_the_fill_of_a_mask_does_not_drown_scores(side):
    hidden = np.zeros((2, 3, 4), np.float32)
    hidden[..., 3] = LOWEST
    assert is_held(side, X + hidden, X + hidden)
    assert not is_held(side, X + hidden, 2 * X + hidden)
    assert not is_held(side, X + hidden, X)


def test_masks_are_what_they_hide(side):
    seen = np.tril(np.ones((4, 4), bool))[None]
    additive = np.where(seen, 0, LOWEST).astype(np.float32)
    assert is_held(side, additive, np.where(seen, 0, -1e9).astype(np.float32))
    assert is_held(side, additive, seen)
    assert not is_held(side, additive, np.ones((1, 4, 4), bool))
    more = np.where(np.tril(np.ones((4, 4), bool), -1)[None], 0, LOWEST).astype(np.float32)
    assert not is_held(side, additive, more)
    assert not is_held(side, more, additive)


def test_not_finite_is_not_held_by_what_is(side):
    broken = X.copy()
    broken[0, 0, 0] = np.nan
    assert not is_held(side, X, broken)


def test_calls_are_nested_as_they_ran(side):
    trace = side(
        "nested",
        [
            ("outer()", "input", "x", X),
            ("inner()", "input", "x", X),
            ("inner()", "output", "", -X),
            ("outer()", "output", "", 2 * X),
            ("later()", "input", "x", 2 * X),
            ("later()", "output", "", 3 * X),
        ],
    )
    outer, later = calls_of(trace.deeper)
    assert [outer.name, later.name] == ["outer", "later"]
    assert [call.name for call in outer.children] == ["inner"]
    assert later.children == ()


def blamed(side, ours, theirs):
    one, other = side("reference", ours), side("port", theirs)
    result = other.activations[-1]
    return blame(half(other, "port"), half(one, "reference"), result)


RESULT = ("forward", "output", "")


def test_the_first_wrong_function_is_blamed_not_what_follows(side):
    found = blamed(
        side,
        [("turn()", "input", "x", X), ("turn()", "output", "", X**2), (*RESULT, X**2 + 1)],
        [
            ("spin()", "input", "x", X),
            ("spin()", "output", "", X**3),
            ("add()", "input", "x", X**3),
            ("add()", "output", "", X**3 + 1),
            (*RESULT, X**3 + 1),
        ],
    )
    assert found.call is not None
    assert found.call.name == "spin"


def test_a_value_that_the_reference_does_not_compute_is_no_fault_when_it_heals(side):
    found = blamed(
        side,
        [("turn()", "input", "x", X), ("turn()", "output", "", X**2), (*RESULT, X**2 + 1)],
        [
            ("early()", "input", "x", X),
            ("early()", "output", "", 5 * X),
            ("undo()", "input", "x", 5 * X),
            ("undo()", "output", "", X**2),
            ("last()", "input", "x", X**2),
            ("last()", "output", "", X**2 + 7),
            (*RESULT, X**2 + 7),
        ],
    )
    assert found.call is not None
    assert found.call.name == "last"


def test_a_function_is_handed_the_wrong_number(side):
    found = blamed(
        side,
        [
            ("attend()", "input", "q", X),
            ("attend()", "input", "scaling", np.float64(0.5)),
            ("attend()", "output", "", X / 2),
            (*RESULT, X / 2),
        ],
        [
            ("scale()", "output", "", np.float32(0.25)),
            ("attend()", "input", "q", X),
            ("attend()", "input", "scaling", np.float32(0.25)),
            ("attend()", "output", "", X / 4),
            (*RESULT, X / 4),
        ],
    )
    assert found.call is not None
    assert found.call.name == "scale"


def test_the_modules_own_code_is_blamed_where_no_function_is_wrong(side):
    found = blamed(
        side,
        [("turn()", "input", "x", X), ("turn()", "output", "", X**2), (*RESULT, X**2 + 1)],
        [("turn()", "input", "x", X), ("turn()", "output", "", X**2), (*RESULT, X**2 + 2)],
    )
    assert found.call is None


def test_a_counterpart_takes_the_same_arguments(side):
    y = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
    reference = side(
        "reference",
        [
            ("one()", "input", "a", X),
            ("one()", "output", "", X**2),
            ("two()", "input", "a", X),
            ("two()", "input", "b", y),
            ("two()", "output", "", X * y),
        ],
    )
    port = side(
        "port",
        [
            ("mine()", "input", "p", X),
            ("mine()", "input", "q", y),
            ("mine()", "output", "", X - y),
        ],
    )
    call = calls_of(port.deeper)[0]
    found = counterpart(call, half(port, "port"), half(reference, "reference"))
    assert found is not None
    assert found.name == "two"
