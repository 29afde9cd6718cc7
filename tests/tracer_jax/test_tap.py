"""The tap itself: nothing outside a capture, and an identity that leaves the model's objects alone inside."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import firstdiff
from firstdiff.tracer.jax.call import argument_names, tap_call
from firstdiff.tracer.jax.tap import is_tappable


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array | None


@jax.tree_util.register_dataclass
@dataclass
class Mutable:
    """A registered container that a model may fill in place."""

    value: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    value: jax.Array


def test_outside_a_capture_a_tap_is_its_argument(x):
    assert firstdiff.tap("a", x) is x
    tapped = jax.make_jaxpr(lambda x: firstdiff.tap("a", x * 2) + 1)(x)
    assert str(tapped) == str(jax.make_jaxpr(lambda x: x * 2 + 1)(x))


def test_leaves_are_named_and_what_is_no_array_is_left_alone(record, x):
    seen = {}

    def call(model, x):
        y = x * model
        value = {
            "t": (y, [y + 1, None]),
            "p": Pair(y + 2, None),
            "n": 3,
            "s": "text",
            "f": Frozen(y + 3),
        }
        seen["got"] = firstdiff.tap("all", value)
        return y

    names = record(jnp.float32(2), call, {"x": x}).names()
    assert names == [f"all:output:{leaf}" for leaf in ("t.0", "t.1.0", "p.left", "f.value")]
    got = seen["got"]
    assert (got["n"], got["s"], type(got["p"]), got["t"][1][1]) == (3, "text", Pair, None)


def test_what_is_no_number_is_not_tapped(record, x):
    def call(model, x):
        key = jax.random.key(0)
        firstdiff.tap("m", (key, np.ones(3), 2.0, x * model, jax.random.key_data(key)))
        return x * model

    assert record(jnp.float32(2), call, {"x": x}).names() == ["m:output:3", "m:output:4"]
    assert not is_tappable(np.zeros((), jax.dtypes.float0))


def test_weak_types_and_dtypes_survive(record, x):
    def call(model, x):
        weak = firstdiff.tap("weak", jnp.sin(1.0) * 2)
        low = firstdiff.tap("low", x.astype(jnp.bfloat16) * weak)
        assert low.dtype == jnp.bfloat16
        return firstdiff.tap("mask", low > 0), firstdiff.tap("ids", low.astype(jnp.int8)) + model

    recorded = record(jnp.int8(2), call, {"x": x})
    assert [recorded.event(name).dtype for name in ("weak", "low", "mask", "ids")] == [
        "float32",
        "bfloat16",
        "bool",
        "int8",
    ]
    assert recorded.value("low").dtype == np.uint16


def module(path, function, *args, **kwargs):
    return tap_call(function, args, kwargs, path=path, class_name="M")


def test_a_cache_filled_in_place_stays_filled(record, x):
    def layer(x, cache, log):
        cache["k"] = x + 1
        cache["old"] = cache["old"]
        del cache["gone"]
        log.append(x)
        return x * 2

    def call(model, x):
        old = x * model
        cache, log = {"old": old, "gone": x}, [x]
        y = module("layer", layer, x, cache, log)
        assert set(cache) == {"old", "k"}
        assert cache["old"] is old
        assert len(log) == 2
        assert log[0] is x
        return y, cache["k"]

    recorded = record(jnp.float32(2), call, {"x": x})
    np.testing.assert_array_equal(recorded.value("", "output", "1"), x + 1)
    assert "layer:input:cache.old" in recorded.names()
    assert "layer:input:log.0" in recorded.names()


def test_an_object_that_may_change_is_observed_and_passed_itself(record, x):
    def layer(box):
        box.value = box.value + 1
        return box.value

    def call(model, x):
        box = Mutable(x * model)
        y = module("layer", layer, box)
        assert box.value is not None
        return y, box.value

    recorded = record(jnp.float32(2), call, {"x": x})
    np.testing.assert_array_equal(recorded.value("layer", "input", "box.value"), x * 2)
    np.testing.assert_array_equal(recorded.value("", "output", "1"), x * 2 + 1)


def test_a_concrete_array_stays_concrete(record, x):
    count = jnp.asarray(2)

    def layer(x, count):
        return x * int(count)

    recorded = record(jnp.float32(2), lambda m, x: module("layer", layer, x * m, count), {"x": x})
    np.testing.assert_array_equal(recorded.value("layer"), x * 4)
    assert recorded.value("layer", "input", "count") == 2


def test_names_inside_a_module_are_relative_to_it(record, x):
    def outer(x):
        x = firstdiff.tap("before", x + 1)
        x = module("block.attn", lambda x: firstdiff.tap("rotary", x * 2), x)
        return firstdiff.tap("after", x)

    names = record(jnp.float32(2), lambda m, x: module("block", outer, x * m), {"x": x}).names()
    assert [name.split(":")[0] for name in names if ":output:" in name] == [
        "block.before",
        "block.attn.rotary",
        "block.attn",
        "block.after",
        "block",
    ]


def test_positional_arguments_are_named_by_the_signature():
    def f(a, /, b, *rest, c):
        raise NotImplementedError(a, b, rest, c)

    signature = inspect.signature(f)
    assert argument_names(signature, 1) == ["a"]
    assert argument_names(signature, 4) == ["a", "b", "rest.0", "rest.1"]
    assert argument_names(None, 2) == ["args.0", "args.1"]
