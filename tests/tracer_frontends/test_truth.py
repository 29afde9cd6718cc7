"""What every framework's capture says of itself, and what it leaves behind: nothing."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from stack import FRAMEWORKS, SHARDED_WAYS, WAYS, stack_input, stack_weights

import firstdiff
from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.tracer.jax.frontend import front_ends_for
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import CaptureError


def built(framework, way="jit"):
    return importlib.import_module(f"stack_{framework}").build(way, stack_weights())


def plain_program(subject, x):
    """The plain call as JAX traces it: its equations say what it does and what it costs."""
    split = front_ends_for(subject.model)[0].split(subject.model)

    def call(arrays, x):
        with split.run(arrays) as model:
            return subject.call(model, x=x)

    traced = jax.make_jaxpr(call)
    return re.sub(r"0x[0-9a-f]+", "", str(traced(split.arrays, x)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("stop", [None, KeyboardInterrupt, RuntimeError])
def test_a_plain_run_afterwards_is_the_program_that_it_was(framework, stop, record):
    subject, x = built(framework), jnp.asarray(stack_input())
    before = plain_program(subject, x)
    assert "tanh" in before

    def sink(event):
        if stop is not None and event.key.path:
            raise stop("enough")

    if stop is None:
        record(subject.model, subject.call, {"x": x})
    else:
        with pytest.raises(stop):
            capture_jax(subject.model, subject.call, {"x": x}, sink=sink)
    assert plain_program(subject, x) == before
    assert compat.capture_token() is None


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "functions"])
def test_a_branch_that_is_not_taken_is_listed(framework, record):
    subject = built(framework, "cond")
    taken = record(subject.model, subject.call, {"x": stack_input()})
    fired = {path for path, *_ in taken.values if path}
    silent = set(taken.capture.never_fired)
    assert not silent & fired
    assert any(re.search(r"layers[._]1", path) for path in silent)


def test_taps_in_a_branch_that_is_not_taken_are_listed(record):
    def call(_model, x):
        names = ("plus", "minus")
        branches = [lambda x, name=name: firstdiff.tap(name, x * 2) for name in names]
        return jax.lax.cond(x.sum() > 0, *branches, x)

    taken = record(jnp.ones(1), call, {"x": stack_input()})
    assert taken.capture.never_fired == ("minus",)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_selection_of_nothing_fails(framework, record):
    subject = built(framework)
    with pytest.raises(CaptureError, match=r"matches none of \d+ module paths"):
        record(
            subject.model, subject.call, {"x": stack_input()}, selection=Selection(("decoder.*",))
        )


def test_the_documented_table_is_that_of_the_tests():
    text = (Path(__file__).parents[2] / "docs" / "jax-capture.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    head, *body = [row for row in rows if len(row) == len(WAYS) + len(SHARDED_WAYS) + 1]
    assert head[1:] == [*WAYS, *SHARDED_WAYS]
    assert [row[0] for row in body if set(row[0]) != {"-"}] == list(FRAMEWORKS)
