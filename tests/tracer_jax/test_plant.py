"""Planted values: the model goes on with them, and its own are recorded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import firstdiff
from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.recording import Recording
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import OptionError
from firstdiff.traces.schema import Key


def output(path, call=0, step=0):
    return Key(path, "output", "", "__call__", call, step)


def chain(model, x):
    a = firstdiff.tap("a", x * model)
    b = firstdiff.tap("b", jnp.sin(a))
    return firstdiff.tap("c", b + a)


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["flat", "jit", "remat"]
)
@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_downstream_sees_the_planted_value_and_the_event_the_own_one(record, x, wrap, mode):
    planted = np.full(x.shape, 0.25, np.float32)
    recorded = record(
        jnp.float32(3),
        lambda m, x: wrap(chain)(m, x),
        {"x": x},
        values={output("a"): planted},
        mode=mode,
    )
    np.testing.assert_array_equal(recorded.value("a"), x * 3)
    np.testing.assert_allclose(recorded.value("b"), np.sin(planted), rtol=1e-6)
    np.testing.assert_allclose(recorded.value("c"), np.sin(planted) + planted, rtol=1e-6)
    assert recorded.capture.planted == (output("a"),)
    assert recorded.capture.refused == {}


def test_an_output_that_is_the_next_input_is_no_longer_the_same_value(record, x):
    def call(model, x):
        return firstdiff.tap("b", firstdiff.tap("a", x * model)) + 1

    free = record(jnp.float32(3), call, {"x": x})
    assert free.event("b").same_as == output("a")
    planted = np.ones(x.shape, np.float32)
    forced = record(jnp.float32(3), call, {"x": x}, values={output("a"): planted})
    assert forced.event("b").same_as is None
    np.testing.assert_array_equal(forced.value("a"), x * 3)
    np.testing.assert_array_equal(forced.value("b"), planted)
    np.testing.assert_array_equal(forced.value("", "output"), planted + 1)


def scanned(model, x):
    def body(c, w):
        h = firstdiff.tap("layers.h", jnp.tanh(c @ w["up"]))
        return firstdiff.tap("layers", c + h @ w["down"]), None

    return jax.lax.scan(body, x, model)[0]


@pytest.mark.parametrize("layers", [[2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_layers_of_a_scan_are_planted_one_by_one(record, weights, x, layers, mode):
    rng = np.random.default_rng(1)
    values = {i: rng.normal(size=(2, 16)).astype(np.float32) for i in layers}
    recorded = record(
        weights,
        scanned,
        {"x": x},
        values={output(f"layers.{i}.h"): value for i, value in values.items()},
        mode=mode,
    )
    c = np.asarray(x)
    for i in range(4):
        own = np.tanh(c @ weights["up"][i])
        np.testing.assert_allclose(recorded.value(f"layers.{i}.h"), own, rtol=2e-5, atol=1e-6)
        c = c + values.get(i, own) @ weights["down"][i]
        np.testing.assert_allclose(recorded.value(f"layers.{i}"), c, rtol=2e-5, atol=1e-5)


def test_every_layer_is_judged_on_planted_inputs(record, weights, x):
    """Planting a run's own values changes nothing: the carry that a layer receives is the planted one."""
    free = record(weights, scanned, {"x": x})
    values = {output(f"layers.{i}"): free.value(f"layers.{i}") for i in range(4)}
    forced = record(weights, scanned, {"x": x}, values=values)
    for name in values:
        np.testing.assert_allclose(forced.value(name.path), free.value(name.path), rtol=1e-6)
    zeros = {key: np.zeros((2, 8), np.float32) for key in values}
    forced = record(weights, scanned, {"x": x}, values=zeros)
    for i in range(1, 4):
        np.testing.assert_array_equal(forced.value(f"layers.{i}.h"), np.zeros((2, 16)))


@pytest.mark.parametrize(
    "policy", [None, jax.checkpoint_policies.everything_saveable], ids=["nothing", "everything"]
)
@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_one_layer_of_a_scan_under_remat(record, weights, x, policy, mode):
    def call(model, x):
        def body(c, w):
            h = firstdiff.tap("layers.h", jnp.tanh(c @ w["up"]))
            return firstdiff.tap("layers", c + h @ w["down"]), None

        return jax.lax.scan(jax.checkpoint(body, policy=policy), x, model)[0]

    planted = np.full((2, 16), 0.5, np.float32)
    values = {output("layers.2.h"): planted}
    recorded = record(weights, call, {"x": x}, values=values, mode=mode)
    c = np.asarray(x)
    for i in range(4):
        own = np.tanh(c @ weights["up"][i])
        np.testing.assert_allclose(recorded.value(f"layers.{i}.h"), own, rtol=2e-5, atol=1e-6)
        c = c + (planted if i == 2 else own) @ weights["down"][i]
        np.testing.assert_allclose(recorded.value(f"layers.{i}"), c, rtol=2e-5, atol=1e-5)


def grid(model, x):
    """A scan over two blocks of two layers, each a scan in which a map goes over the rows."""

    def layer(c, w):
        row = lambda r: firstdiff.tap("row", jnp.tanh(r @ w["up"]))
        return firstdiff.tap("layer", c + jax.lax.map(row, c) @ w["down"]), None

    def block(c, w):
        return firstdiff.tap("block", jax.lax.scan(layer, c, w)[0]), None

    halves = {name: w.reshape(2, 2, *w.shape[1:]) for name, w in model.items()}
    return jax.lax.scan(block, x, halves)[0]


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.checkpoint, jax.jit], ids=["as is", "remat", "jit"]
)
@pytest.mark.parametrize("rows", [[(1, 0, 1)], [(0, 0, 0), (0, 1, 1), (1, 0, 1)]], ids=str)
def test_iterations_of_nested_loops_are_planted_one_by_one(record, weights, x, wrap, rows):
    free = record(weights, wrap(grid), {"x": x})
    keys = [event.key for event in free.events if event.key.path.endswith("row")]
    assert len(keys) == 8
    planted = {place: np.full(16, 0.1 + sum(place), np.float32) for place in rows}
    numbers = {place: place[0] * 4 + place[1] * 2 + place[2] for place in rows}
    values = {keys[numbers[place]]: value for place, value in planted.items()}
    recorded = record(weights, wrap(grid), {"x": x}, values=values)
    assert set(recorded.capture.planted) == set(values)
    c = np.asarray(x)
    for layer in range(4):
        own = np.tanh(c @ weights["up"][layer])
        for row in range(2):
            key = keys[layer * 2 + row]
            found = recorded.value(key.path, call=key.call)
            np.testing.assert_allclose(found, own[row], rtol=2e-5, atol=1e-6)
        given = [planted.get((layer // 2, layer % 2, row), own[row]) for row in range(2)]
        c = c + np.stack(given) @ weights["down"][layer]
    np.testing.assert_allclose(recorded.value("", "output"), c, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call", [scanned, jax.checkpoint(scanned), jax.jit(scanned)], ids=["scan", "remat", "jit"]
)
def test_planting_one_layer_of_a_scan_takes_room_for_one_layer(weights, x, call):
    """Neither what goes in nor anything in the program has a place for the other layers."""
    selection, key = Selection(("layers.2",)), output("layers.1")
    recording = Recording(
        weights, call, lambda _event: None, selection, framework="linen",
        values={key: np.ones((2, 8), np.float32)},
    )  # fmt: skip
    _program, (run,), put = recording._planting(recording._tracing.given({"x": x}))
    (given,) = put.values()
    assert given.values.shape == (1, 2, 8)
    np.testing.assert_array_equal(given.rows, [-1, 0, -1, -1])
    arguments = [*jax.tree_util.tree_leaves(weights), x]
    traced = jax.make_jaxpr(run._execute)(arguments, put)
    assert (4, 2, 8) not in set(shapes_in(traced.jaxpr))
    stacked = {output(f"layers.{i}"): np.ones((2, 8), np.float32) for i in range(4)}
    recording = Recording(
        weights, call, lambda _event: None, selection, framework="linen", values=stacked
    )
    _program, (run,), put = recording._planting(recording._tracing.given({"x": x}))
    traced = jax.make_jaxpr(run._execute)(arguments, put)
    assert (4, 2, 8) in set(shapes_in(traced.jaxpr))


def shapes_in(jaxpr):
    """The shape of every variable in ``jaxpr``, at any depth."""
    for var in (*jaxpr.invars, *(out for eqn in jaxpr.eqns for out in eqn.outvars)):
        yield var.aval.shape
    for eqn in jaxpr.eqns:
        for inner in compat.jaxprs_of(eqn):
            yield from shapes_in(inner)


def test_vmap(record, x):
    planted = np.arange(16, dtype=np.float32).reshape(2, 8)

    def call(model, x):
        return jax.vmap(lambda row: firstdiff.tap("row", row * model) + 1)(x)

    recorded = record(jnp.float32(3), call, {"x": x}, values={output("row"): planted})
    np.testing.assert_array_equal(recorded.value("", "output"), planted + 1)


@pytest.mark.parametrize("layers", [[1], [0, 1, 2, 3]], ids=str)
def test_vmap_over_a_later_axis_inside_a_scan(record, weights, layers):
    """Values are given as they are recorded, batch first, wherever the program has that axis."""
    x = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    values = {i: rng.normal(size=(3, 16)).astype(np.float32) for i in layers}

    def call(model, x):
        return jax.vmap(lambda row: scanned(model, row), in_axes=1)(x)

    planted = {output(f"layers.{i}.h"): value for i, value in values.items()}
    recorded = record(weights, call, {"x": x}, values=planted)
    c = x.T
    for i in range(4):
        own = np.tanh(c @ weights["up"][i])
        np.testing.assert_allclose(recorded.value(f"layers.{i}.h"), own, rtol=2e-5, atol=1e-6)
        c = c + values.get(i, own) @ weights["down"][i]
        np.testing.assert_allclose(recorded.value(f"layers.{i}"), c, rtol=2e-5, atol=1e-5)
    assert recorded.capture.planted == tuple(planted)


@pytest.mark.parametrize("flag", [True, False])
def test_a_branch(record, x, flag):
    def call(model, x, flag):
        yes = lambda x: firstdiff.tap("yes", x * model) + 1
        return jax.lax.cond(flag, yes, lambda x: x, x)

    values = {output("yes"): np.ones(x.shape, np.float32)}
    inputs = {"x": x, "flag": jnp.asarray(flag)}
    recorded = record(jnp.float32(3), call, inputs, values=values)
    expected = np.full(x.shape, 2, np.float32) if flag else np.asarray(x)
    np.testing.assert_array_equal(recorded.value("", "output"), expected)
    reason = {} if flag else {output("yes"): "no tap of that name fired"}
    assert recorded.capture.refused == reason


def looped(model, x):
    def body(state):
        value, n = state
        return firstdiff.tap("grow", value * model), n + 1

    return jax.lax.while_loop(lambda s: s[1] < 4, body, (x, jnp.int32(0)))[0]


def test_iterations_of_a_while_loop(record, x):
    values = {output("grow", call=1): np.ones(x.shape, np.float32)}
    recorded = record(jnp.float32(2), looped, {"x": x}, values=values, max_iterations=6)
    np.testing.assert_array_equal(recorded.value("grow", call=1), x * 4)
    np.testing.assert_array_equal(recorded.value("grow", call=2), np.full(x.shape, 2))
    np.testing.assert_array_equal(recorded.value("", "output"), np.full(x.shape, 4))
    refused = record(jnp.float32(2), looped, {"x": x}, values=values).capture.refused
    assert refused == {output("grow", call=1): "no tap of that name fired"}
    last = {output("grow"): np.ones(x.shape, np.float32)}
    refused = record(jnp.float32(2), looped, {"x": x}, values=last).capture.refused
    assert refused == {output("grow"): "it lies in a while loop; give max_iterations"}


def test_a_value_is_cast_to_the_models_dtype(record, x):
    model = jnp.bfloat16(3)
    planted = np.full(x.shape, 1.001, np.float32)
    recorded = record(model, chain, {"x": x.astype(jnp.bfloat16)}, values={output("a"): planted})
    expected = jnp.sin(jnp.asarray(planted).astype(jnp.bfloat16))
    np.testing.assert_array_equal(recorded.value("b"), np.asarray(expected).view(np.uint16))


def test_another_shape_is_refused_by_name(record, x):
    with pytest.raises(OptionError) as error:
        record(jnp.float32(3), chain, {"x": x}, values={output("a"): np.ones((8, 2), np.float32)})
    assert str(error.value) == (
        "a output: the value to plant is (8, 2), the model's is (2, 8); bring it into the model's layout first"
    )
