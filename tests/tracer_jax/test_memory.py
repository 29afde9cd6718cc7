"""Less memory: streaming, passes, and selected iterations. Values are those of a plain capture; what is held is read
off the traced program, not off a clock or a meter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import firstdiff
from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.tracer.jax.recording import Recording
from firstdiff.tracer.jax.streaming import _Order
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import OptionError


def nested(weights, x):
    """A stack of layers with a branch and a while loop in each, and a vmap."""

    def body(c, w):
        h = firstdiff.tap("layers.mlp", jnp.tanh(c @ w["up"]) @ w["down"])
        h = jax.lax.cond(
            h.sum() > 0,
            lambda h: firstdiff.tap("layers.yes", h * 2),
            lambda h: firstdiff.tap("layers.no", h * 3),
            h,
        )
        grow = lambda h: firstdiff.tap("layers.grow", h * 1.5)
        h = jax.lax.while_loop(lambda h: jnp.abs(h).max() < 8, grow, h)
        return firstdiff.tap("layers", c + h), None

    x = firstdiff.tap("embed", x * 2)
    y = jax.lax.scan(body, x, weights)[0]
    rows = jax.vmap(lambda row: firstdiff.tap("row", row.sum()))(y)
    return firstdiff.tap("head", rows + x.sum())


@pytest.mark.parametrize(
    "options",
    [
        {"stream": True},
        {"stream": True, "mode": "eager"},
        {"stream": True, "max_iterations": 3},
        {"passes": 3},
        {"passes": 100, "max_iterations": 3},
    ],
    ids=str,
)
def test_the_trace_is_that_of_one_run_that_holds_everything(record, weights, x, options):
    plain = {name: value for name, value in options.items() if name not in ("stream", "passes")}
    whole = record(weights, nested, [{"x": x}, {"x": x + 1}], **plain)
    small = record(weights, nested, [{"x": x}, {"x": x + 1}], **options)
    assert small.keys == whole.keys
    for ours, theirs in zip(small.events, whole.events, strict=True):
        assert (ours.same_as, ours.axes, ours.dtype) == (theirs.same_as, theirs.axes, theirs.dtype)
    for ours, theirs in zip(small.values, whole.values, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert small.capture.notes == ()


def test_a_selected_layer_of_a_scan_carries_no_other_one(record, weights, x):
    everything = record(weights, nested, {"x": x})
    chosen = record(weights, nested, {"x": x}, selection=Selection(("layers.2*",)))
    assert {key.path.split(".")[1] for key in chosen.keys} == {"2"}
    for key, value in zip(chosen.keys, chosen.values, strict=True):
        np.testing.assert_array_equal(value, everything.value(key.path, key.site, key.leaf))
    assert largest_stack(weights, x, Selection(("layers.mlp", "layers.2.mlp"))) == 1
    assert largest_stack(weights, x, Selection(("layers.[02].mlp",))) == 2
    assert largest_stack(weights, x, Selection(("layers.*.mlp",))) == 4


def largest_stack(weights, x, selection):
    """Leading axis of the one value that the program returns for `layers.*.mlp`."""
    recording = Recording(weights, nested, lambda _event: None, selection, framework="linen")
    _program, (run,) = recording._program(recording._tracing.given({"x": x}))
    _outputs, taken = run._execute([*jax.tree_util.tree_leaves(weights), x], {})
    (value,) = (v for v in taken.values() if v.ndim == 3)
    return value.shape[0]


def test_a_stream_has_no_more_outputs_and_holds_a_few_values(weights, x, monkeypatch):
    held, arrived = [], _Order.arrived

    def counted(order, number, value):
        arrived(order, number, value)
        held.append(len(order.held))

    monkeypatch.setattr(_Order, "arrived", counted)
    recording = Recording(weights, nested, lambda _event: None, framework="linen", stream=True)
    recording.step({"x": x})
    assert max(held) <= 5 < len(held)
    (_program, (run,)) = next(iter(recording._programs.values()))
    assert run._execute([*jax.tree_util.tree_leaves(weights), x], {})[1] == {}


def test_iterations_of_a_while_loop_are_sent_from_inside_it(weights, x):
    """No buffer of them rides along: the loops of the program carry what the plain one's carry, and a counter."""

    def carried(**options):
        recording = Recording(
            weights, nested, lambda _e: None, framework="linen", max_iterations=3, **options
        )
        _program, (run,) = recording._program(recording._tracing.given({"x": x}))
        arguments = [*jax.tree_util.tree_leaves(weights), x]
        traced = jax.make_jaxpr(lambda: run._execute(arguments, {}))()
        (loop,) = while_loops(traced.jaxpr)
        return [var.aval.shape for var in loop.outvars]

    assert (3, *x.shape) in carried()
    assert carried(stream=True) == [x.shape, ()]


def while_loops(jaxpr):
    """Every while equation in ``jaxpr``, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn
        for inner in compat.jaxprs_of(eqn):
            yield from while_loops(inner)


def test_what_a_sink_raises_while_streaming_is_raised(weights, x):
    def full(event):
        if event.key.path == "layers.1.mlp":
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        capture_jax(weights, nested, {"x": x}, sink=full, stream=True, framework="linen")


def test_values_that_change_between_passes_are_noted(weights, x):
    """A callback into Python that counts makes a model which is no function of its inputs."""
    calls = []

    def count(x):
        calls.append(0)
        return np.asarray(x) + len(calls)

    def call(weights, x):
        x = firstdiff.tap("a", x @ weights["up"][0])
        x = firstdiff.tap("noise", jax.pure_callback(count, x, x))
        return firstdiff.tap("b", x @ weights["down"][0])

    recorded = capture_jax(
        weights, call, {"x": x}, sink=lambda _e: None, passes=3, verify=False, framework="linen"
    )
    (note,) = recorded.notes
    assert "the output changed between 3 passes" in note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 0}, "passes is 0; it is at least 1"),
        ({"max_iterations": 0}, "max_iterations is 0; it is at least 1"),
        ({"stream": True, "passes": 2}, "stream and passes exclude each other"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(weights, x, options, message):
    with pytest.raises(OptionError, match=message):
        capture_jax(weights, nested, {"x": x}, sink=lambda _event: None, **options)


def test_streaming_a_shard_map_is_refused(weights, x):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    inner = lambda x: firstdiff.tap("inside", x * 2)

    def call(_weights, x):
        return jax.shard_map(inner, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    with pytest.raises(OptionError, match="the model runs on a shard_map"):
        capture_jax(weights, call, {"x": x}, sink=lambda _e: None, stream=True, framework="linen")
