"""Captures: selection, steps, modes, checks, errors, and what is left behind."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import firstdiff
from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.tracer.jax.recording import Recording
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import CaptureError, OptionError, SubjectError


def model_of(weights, x):
    def body(c, w):
        h = firstdiff.tap("layers.mlp", jnp.tanh(c @ w["up"]) @ w["down"])
        return firstdiff.tap("layers", c + h), None

    x = firstdiff.tap("embed", x * 2)
    return firstdiff.tap("head", jax.lax.scan(body, x, weights)[0].sum(-1))


def test_the_calls_own_inputs_and_outputs_are_the_root(record, weights, x):
    def call(weights, batch, scale, note):
        assert note == "static"
        return {"logits": model_of(weights, batch["x"]) * scale, "extra": None}

    inputs = {"batch": {"x": np.asarray(x)}, "scale": np.float32(2), "note": "static"}
    recorded = record(weights, call, inputs)
    root = [name for name in recorded.names(whole=True) if name.startswith(":")]
    assert root == [":input:batch.x", ":input:scale", ":output:logits"]
    np.testing.assert_array_equal(recorded.value("", "input", "batch.x"), x)
    assert set(recorded.capture.outputs) == {"logits"}


def test_selection_is_by_final_names(record, weights, x):
    chosen = Selection(("layers.[02]*", "head"), ("output",))
    recorded = record(weights, model_of, {"x": x}, selection=chosen)
    assert recorded.names(whole=True) == [
        "layers.0.mlp:output:",
        "layers.0:output:",
        "layers.2.mlp:output:",
        "layers.2:output:",
        "head:output:",
    ]
    everything = record(weights, model_of, {"x": x})
    for event, value in zip(recorded.events, recorded.values, strict=True):
        np.testing.assert_array_equal(value, everything.value(event.key.path))
    assert recorded.capture.events == 5


def test_two_captures_are_the_same(record, weights, x):
    one, two = (record(weights, model_of, {"x": x}) for _ in range(2))
    assert one.keys == two.keys
    for first, second in zip(one.values, two.values, strict=True):
        np.testing.assert_array_equal(first, second)


def test_eager_gives_the_values_of_plain_operations(record, weights, x):
    recorded = record(weights, model_of, {"x": x}, mode="eager")
    value = x * 2
    for i in range(4):
        value = value + jnp.tanh(value @ weights["up"][i]) @ weights["down"][i]
        np.testing.assert_array_equal(recorded.value(f"layers.{i}"), value)
    assert recorded.capture.mode == "eager"
    assert recorded.capture.precision["excess_precision"] is False


def test_exact_rounds_between_operations_in_bfloat16(record, x):
    def call(model, x):
        y = firstdiff.tap("y", (x * model) * model + x)
        return y - x * model

    x = x.astype(jnp.bfloat16)
    recorded = record(jnp.bfloat16(1.7), call, {"x": x}, exact=True)
    m = jnp.bfloat16(1.7)
    expected = (x * m) * m + x
    np.testing.assert_array_equal(recorded.value("y"), np.asarray(expected).view(np.uint16))
    assert recorded.capture.precision["excess_precision"] is False


def test_several_inputs_are_several_steps(record, weights, x):
    recorded = record(weights, model_of, [{"x": x}, {"x": x[:1]}, {"x": x + 1}])
    heads = [event for event in recorded.events if event.key.path == "head"]
    assert [(event.key.step, event.key.call) for event in heads] == [(0, 0), (1, 0), (2, 0)]
    assert [event.value.shape for event in heads] == [(2,), (1,), (2,)]
    assert recorded.capture.steps == 3


def test_a_step_returns_what_the_call_returns(weights, x):
    def call(weights, x, cache):
        y = model_of(weights, x) + cache["sum"]
        return y, {"sum": cache["sum"] + y.sum()}

    events = []
    recording = Recording(weights, call, events.append, framework="linen")
    cache = {"sum": jnp.float32(0)}
    y, cache = recording.step({"x": x, "cache": cache})
    _, cache = recording.step({"x": x, "cache": cache})
    plain = jax.jit(call)
    expected, expected_cache = plain(weights, x, {"sum": jnp.float32(0)})
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(cache["sum"], plain(weights, x, expected_cache)[1]["sum"])
    assert recording.finish().steps == 2


def test_what_the_capture_knows(record, weights, x):
    captured = record(weights, model_of, {"x": x}).capture
    assert captured.parameters == 2 * 4 * 8 * 16
    assert captured.dtype == "float32"
    assert captured.device == "cpu"
    assert captured.front_end == "functions"
    assert captured.versions["jax"] == jax.__version__
    assert set(captured.precision) == {
        "matmul_precision",
        "x64",
        "dtype_promotion",
        "prng",
        "excess_precision",
    }
    assert all(
        value is None or isinstance(value, bool | str) for value in captured.precision.values()
    )
    source = record(weights, model_of, {"x": x}).event("embed").source
    assert source.split("/")[-1].split(":")[0] == "test_recording.py"


def test_verify_can_be_left_out(weights, x):
    captured = capture_jax(
        weights, model_of, {"x": x}, sink=lambda _event: None, verify=False, framework="linen"
    )
    assert captured.output_check == {"checked": False}


class Failing(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="first")(x)
        raise ValueError("no such head\nmore")


def test_an_error_of_the_user_is_chained_and_nothing_is_left_behind(record, x):
    variables = {"params": {"first": {"kernel": np.eye(8, dtype=np.float32), "bias": np.zeros(8)}}}
    with pytest.raises(SubjectError) as error:
        record(variables, lambda v, x: Failing().apply(v, x), {"x": x})
    assert str(error.value) == "calling the model failed: ValueError: no such head"
    assert isinstance(error.value.__cause__, ValueError)
    assert compat.capture_token() is None
    assert not list(nn.module._global_interceptor_stack)
    assert firstdiff.tap("a", x) is x


def test_ctrl_c_leaves_nothing_behind(x):
    def call(_model, **_inputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_jax(jnp.ones(1), call, {"x": x}, sink=lambda _event: None, framework="linen")
    assert compat.capture_token() is None
    assert not list(nn.module._global_interceptor_stack)


def test_a_capture_of_nothing_says_why(record, weights, x):
    with pytest.raises(CaptureError) as error:
        record(weights, model_of, {"x": x}, selection=Selection(("decoder.*",)))
    assert str(error.value) == (
        "nothing recorded: decoder.* matches none of 10 module paths "
        "('embed', 'layers.0.mlp', 'layers.1.mlp', ...); check the glob"
    )
    with pytest.raises(CaptureError, match="no module of a known framework was called"):
        record(weights, lambda _w: None, {})


def test_an_unknown_mode_is_refused(weights, x):
    with pytest.raises(OptionError, match="mode 'fast' is unknown; it is 'jit' or 'eager'"):
        capture_jax(weights, model_of, {"x": x}, sink=lambda _event: None, mode="fast")


def test_a_model_without_call_is_called_itself(record, x):
    class Doubler:
        def __call__(self, x):
            return firstdiff.tap("double", x * 2)

    recorded = record(Doubler(), None, {"x": x})
    np.testing.assert_array_equal(recorded.value("double"), x * 2)
