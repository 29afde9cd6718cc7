"""Taps in scans and while loops, against a Python loop over the same jitted layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import firstdiff
from firstdiff.traces.schema import Axis


def layer(x, up, down):
    h = firstdiff.tap("layers.up", x @ up)
    return firstdiff.tap("layers", x + jnp.tanh(h) @ down)


def plain_layers(weights, x, order):
    """[(up, out)] by layer number, computed without any loop transformation or tap."""
    step = jax.jit(lambda x, up, down: (x @ up, x + jnp.tanh(x @ up) @ down))
    found = {}
    for index in order:
        h, x = step(x, weights["up"][index], weights["down"][index])
        found[index] = (h, x)
    return found


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"unroll": 2}], ids=str)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "remat"])
def test_a_scan_over_parameters_is_numbered_layers_in_order(record, weights, x, options, wrap):
    def call(model, x):
        body = wrap(lambda carry, each: (layer(carry, each["up"], each["down"]), None))
        return jax.lax.scan(body, x, model, **options)[0]

    recorded = record(weights, call, {"x": x})
    order = [3, 2, 1, 0] if options.get("reverse") else [0, 1, 2, 3]
    expected = [f"layers.{i}{leaf}" for i in order for leaf in (".up:output:", ":output:")]
    assert recorded.names() == expected
    for index, (h, out) in plain_layers(weights, x, order).items():
        np.testing.assert_allclose(recorded.value(f"layers.{index}.up"), h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(recorded.value(f"layers.{index}"), out, rtol=1e-5, atol=1e-6)
    assert recorded.event("layers.2").axes == (Axis("scan", 4, 2),)


def test_events_outside_and_inside_a_scan_are_in_execution_order(record, weights, x):
    def call(model, x):
        x = firstdiff.tap("embed", x * 2)
        x, _ = jax.lax.scan(lambda c, w: (layer(c, w["up"], w["down"]), None), x, model)
        return firstdiff.tap("head", x - 1)

    names = [event.key.path for event in record(weights, call, {"x": x}).events]
    layers = [f"layers.{i}{leaf}" for i in range(4) for leaf in (".up", "")]
    assert names == ["", "embed", *layers, "head", ""]


def test_a_carry_and_a_constant_of_a_scan_are_the_same_values(record, weights, x):
    """What an iteration hands on is what the next receives; both are one place in the trace."""

    def call(model, x, scale):
        def body(carry, w):
            carry = firstdiff.tap("layers.in", carry)
            firstdiff.tap("layers.scale", scale)
            return firstdiff.tap("layers.out", carry @ w["up"] @ w["down"] * scale), None

        return jax.lax.scan(body, x, model)[0]

    recorded = record(weights, call, {"x": x, "scale": jnp.float32(0.5)})
    assert recorded.event("layers.0.in").same_as == recorded.event("", "input", "x").key
    for index in (1, 2, 3):
        same = recorded.event(f"layers.{index}.in").same_as
        assert same == recorded.event(f"layers.{index - 1}.out").key
        assert recorded.event(f"layers.{index}.scale").same_as is not None
    for event, value in zip(recorded.events, recorded.values, strict=True):
        if event.same_as is not None:
            np.testing.assert_array_equal(
                value, recorded.values[recorded.keys.index(event.same_as)]
            )


def test_nested_scans_number_both_levels(record, x):
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(2, 3, 8, 8)).astype(np.float32))

    def call(model, x):
        def inner(c, w):
            return firstdiff.tap("stage.block.proj", jnp.tanh(c @ w)), None

        def outer(c, w):
            c = firstdiff.tap("stage", c * 1.5)
            c, _ = jax.lax.scan(inner, c, w)
            return c, None

        return jax.lax.scan(outer, x, model)[0]

    recorded = record(w, call, {"x": x})
    expected = []
    for i in range(2):
        expected += [f"stage.{i}:output:", *(f"stage.{i}.block.proj.{j}:output:" for j in range(3))]
    assert recorded.names() == expected
    value = x
    for i in range(2):
        value = value * 1.5
        np.testing.assert_allclose(recorded.value(f"stage.{i}"), value, rtol=2e-5, atol=1e-6)
        for j in range(3):
            value = jnp.tanh(value @ w[i, j])
            got = recorded.value(f"stage.{i}.block.proj.{j}")
            np.testing.assert_allclose(got, value, rtol=2e-5, atol=1e-6)
    assert recorded.event("stage.1.block.proj.2").axes == (Axis("scan", 2, 1), Axis("scan", 3, 2))


def test_a_placeholder_says_where_the_iteration_goes(record, weights, x):
    def call(model, x):
        def body(c, w):
            return firstdiff.tap("model.layers.{}.mlp", c @ w["up"] @ w["down"]), None

        return jax.lax.scan(body, x, model)[0]

    names = record(weights, call, {"x": x}).names()
    assert names == [f"model.layers.{i}.mlp:output:" for i in range(4)]


def test_a_scan_over_time_counts_calls(record, x):
    """Shared weights: the same module is called once per time step, as a Python loop in PyTorch would."""
    w = jnp.eye(8) * 0.5
    frames = jnp.stack([x, x + 1, x - 1])

    def call(model, frames):
        def cell(h, frame):
            h = firstdiff.tap("cell", jnp.tanh(h @ model + frame))
            return h, h

        return jax.lax.scan(cell, jnp.zeros_like(frames[0]), frames)[1]

    recorded = record(w, call, {"frames": frames})
    assert recorded.names() == ["cell:output:", "cell:output:#1", "cell:output:#2"]
    for index, expected in enumerate(jax.jit(call)(w, frames)):
        np.testing.assert_array_equal(recorded.value("cell", call=index), expected)


def test_a_fori_loop_that_indexes_stacked_parameters_is_a_stack_of_layers(record, weights, x):
    def call(model, x):
        def body(i, c):
            return layer(c, model["up"][i], model["down"][i])

        return jax.lax.fori_loop(0, 4, body, x)

    recorded = record(weights, call, {"x": x})
    assert recorded.names()[::2] == [f"layers.{i}.up:output:" for i in range(4)]
    for index, (_, out) in plain_layers(weights, x, range(4)).items():
        np.testing.assert_allclose(recorded.value(f"layers.{index}"), out, rtol=1e-5, atol=1e-6)


def growing(model, x):
    def body(state):
        value, n = state
        return firstdiff.tap("grow", value * model), n + 1

    return jax.lax.while_loop(lambda s: jnp.abs(s[0]).sum() < 100, body, (x, jnp.int32(0)))


def test_a_while_loop_gives_its_last_iteration_and_its_trip_count(record, x):
    recorded = record(jnp.float32(1.7), growing, {"x": x})
    out, trips = jax.jit(growing)(jnp.float32(1.7), x)
    np.testing.assert_array_equal(recorded.value("grow"), out)
    assert recorded.event("grow").axes == (Axis("while", int(trips), int(trips) - 1),)
    assert recorded.names() == ["grow:output:"]


@pytest.mark.parametrize("kept", [3, 50])
def test_max_iterations_keeps_the_first_ones(record, x, kept):
    recorded = record(jnp.float32(1.7), growing, {"x": x}, max_iterations=kept)
    _, trips = jax.jit(growing)(jnp.float32(1.7), x)
    count = min(kept, int(trips))
    assert len(recorded.names()) == count
    value = np.asarray(x)
    for index in range(count):
        value = value * np.float32(1.7)
        np.testing.assert_allclose(recorded.value("grow", call=index), value, rtol=1e-6)


def test_a_while_loop_that_never_runs_gives_nothing(record, x):
    recorded = record(jnp.float32(1.7), growing, {"x": x + 1000})
    assert recorded.names() == []


def test_a_tap_in_a_while_condition_is_noted(record, x):
    def call(model, x):
        def unfinished(v):
            return firstdiff.tap("norm", v.sum()) < model

        return jax.lax.while_loop(unfinished, lambda v: v + 1, x)

    recorded = record(jnp.float32(100), call, {"x": x})
    assert recorded.capture.notes == ("taps in the condition of a while loop are not recorded",)


def test_a_branch_and_a_while_inside_a_scan_have_their_facts_per_iteration(record, x):
    w = jnp.asarray([0.5, 1.5, 2.5], jnp.float32)

    def call(model, x):
        def body(c, w):
            big = lambda v: firstdiff.tap("layers.big", v * w)
            small = lambda v: firstdiff.tap("layers.small", v + w)
            c = jax.lax.cond(w > 1, big, small, c)
            n = jnp.int32(w)
            c, _ = jax.lax.while_loop(
                lambda s: s[1] > 0,
                lambda s: (firstdiff.tap("layers.step", s[0] * 2), s[1] - 1),
                (c, n),
            )
            return c, None

        return jax.lax.scan(body, x, model)[0]

    recorded = record(w, call, {"x": x})
    assert recorded.names() == [
        "layers.0.small:output:",
        "layers.1.big:output:",
        "layers.1.step:output:",
        "layers.2.big:output:",
        "layers.2.step:output:",
    ]
    value = x + 0.5
    np.testing.assert_array_equal(recorded.value("layers.0.small"), value)
    value = value * 1.5
    np.testing.assert_array_equal(recorded.value("layers.1.big"), value)
    value = value * 2 * 2.5
    np.testing.assert_allclose(recorded.value("layers.2.big"), value, rtol=1e-6)
    np.testing.assert_allclose(recorded.value("layers.2.step"), value * 4, rtol=1e-6)
    assert recorded.event("layers.2.step").axes == (Axis("scan", 3, 2), Axis("while", 2, 1))
