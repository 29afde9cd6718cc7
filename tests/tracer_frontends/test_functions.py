"""Plain functions: which calls are recorded, under which names, and how this lives with others."""

from __future__ import annotations

import cProfile
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import firstdiff

PARAMS = {
    "layers": {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4)), jnp.float32)},
    "scale": jnp.arange(1.0, 5.0),
}
X = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4)), jnp.float32)


def normed(x, scale):
    return x / jnp.abs(x).max(-1, keepdims=True) * scale


def layer(p, x, *extra, offset=0.0, **options):
    given = len(extra) + len(options)
    return normed(x @ p["w"], p["scale"]) + offset, {"aux": x.sum() + given, "none": None}


def tables(length):
    return jnp.cos(jnp.arange(length, dtype=jnp.float32))


def pieces(x):
    yield from (x[index] for index in range(2))


class Readout:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.project(x) * self.scale

    def project(self, x):
        return x.mean(-1)


def looped(params, x):
    x = x * tables(4)
    for index in range(3):
        p = {"w": params["layers"]["w"][index], "scale": params["scale"]}
        x, _ = layer(p, x, jnp.float32(1), x[:, :1], offset=x[:, :1], key=x)
    x = jnp.stack(list(pieces(x)))
    return Readout(2.0)(x)


def scanned(params, x, wrap=lambda f: f):
    def body(x, w):
        return wrap(layer)({"w": w, "scale": params["scale"]}, x)[0], None

    return jax.lax.scan(body, x, params["layers"]["w"])[0]


def test_calls_are_named_by_the_call_stack(record):
    recorded = record(PARAMS, looped, {"x": X})
    given = ["(x)", "(offset)", "(extra.0)", "(extra.1)", "(key)"]
    one = [*given, ".normed(x)", ".normed:", ":0", ":1.aux"]
    calls = [f"layer.{number}{name}" for number in range(3) for name in one]
    readout = ["(x)", ".project(x)", ".project:", ":"]
    assert recorded.names == [
        *("(x)", "tables:", *calls, *("Readout" + name for name in readout), ":")
    ]
    assert recorded.capture.front_end == "functions"


def test_values_are_those_of_the_functions(record):
    recorded = record(PARAMS, looped, {"x": X})
    x = np.asarray(X, np.float64) * np.cos(np.arange(4))
    for number in range(3):
        np.testing.assert_allclose(
            recorded.value(f"layer.{number}", "input", "x"), x, rtol=1e-5, atol=1e-6
        )
        y = x @ np.asarray(PARAMS["layers"]["w"][number], np.float64)
        y = y / np.abs(y).max(-1, keepdims=True) * np.arange(1.0, 5.0)
        np.testing.assert_allclose(
            recorded.value(f"layer.{number}.normed"), y, rtol=1e-5, atol=1e-6
        )
        x = y + x[:, :1]


def unrolled(params, x, wrap=lambda f: f):
    body = wrap(layer)
    for w in params["layers"]["w"]:
        x = body({"w": w, "scale": params["scale"]}, x)[0]
    return x


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_layers_of_a_loop_are_numbered_like_those_of_a_scan(wrap, record):
    call = partial(unrolled, wrap=wrap)
    call(PARAMS, X)
    recorded = record(PARAMS, call, {"x": X})
    one = ["(x)", ".normed(x)", ".normed:", ":0", ":1.aux"]
    assert [name for name in recorded.names if name[0] == "l"] == [
        f"layer.{number}{name}" for number in range(3) for name in one
    ]
    x = np.asarray(X, np.float64)
    for number in range(3):
        y = x @ np.asarray(PARAMS["layers"]["w"][number], np.float64)
        x = y / np.abs(y).max(-1, keepdims=True) * np.arange(1.0, 5.0)
        np.testing.assert_allclose(
            recorded.value(f"layer.{number}.normed"), x, rtol=1e-5, atol=1e-6
        )


def test_loops_in_loops_are_numbered_each(record):
    def expert(x, scale):
        return normed(x, scale)

    def call(_params, x):
        for _ in range(2):
            total = 0.0
            for scale in (2.0, 3.0):
                total = total + expert(x, scale)
            x = total
        return normed(x, 1.0)

    names = record(PARAMS, call, {"x": X}).names
    experts = [name for name in names if name.endswith("normed:")]
    assert experts == [*(f"expert.{n}.normed:" for n in range(4)), "normed:"]


def test_rotary_tables_are_activations_and_weights_are_none(record):
    frequencies = np.linspace(0.1, 1.0, 4, dtype=np.float32)

    def rotary(positions):
        return jnp.cos(positions * frequencies)

    def call(params, x):
        return normed(x * rotary(jnp.arange(2.0)[:, None]), params["scale"])

    recorded = record(PARAMS, call, {"x": X})
    np.testing.assert_allclose(
        recorded.value("rotary"), np.cos(np.arange(2)[:, None] * frequencies), rtol=1e-6
    )
    assert not [name for name in recorded.names if "scale" in name]


def test_values_are_planted_where_functions_return(record):
    wanted = np.full((2, 4), 0.25, np.float32)
    for call, path in ((unrolled, "layer.1.normed"), (scanned, "body.1.layer.normed")):
        key = firstdiff.traces.Key(path, "output", method="__call__")
        recorded = record(PARAMS, call, {"x": X}, values={key: wanted})
        assert recorded.capture.planted == (key,)
        x = np.asarray(X, np.float64)
        for number in range(3):
            y = x @ np.asarray(PARAMS["layers"]["w"][number], np.float64)
            x = y / np.abs(y).max(-1, keepdims=True) * np.arange(1.0, 5.0)
            own = recorded.value(path.replace("1", str(number), 1))
            np.testing.assert_allclose(own, x, rtol=1e-5, atol=1e-6)
            x = wanted if number == 1 else x
        np.testing.assert_allclose(recorded.value("", "output"), x, rtol=1e-5, atol=1e-6)


def test_a_planted_value_is_what_everything_after_it_is_given(record):
    """The caller's own variable too, and what reads it later is recorded as planted."""

    def add(x, y):
        return x + y

    def call(_params, x):
        y = normed(x, 2.0)
        return add(y, normed(y, 3.0))

    wanted = np.ones((2, 4), np.float32)
    key = firstdiff.traces.Key("normed", "output", method="__call__")
    recorded = record(PARAMS, call, {"x": X}, values={key: wanted})
    assert not np.allclose(recorded.value("normed"), wanted)
    np.testing.assert_array_equal(recorded.value("add", "input", "x"), wanted)
    np.testing.assert_array_equal(recorded.value("normed", "input", "x", call=1), wanted)
    np.testing.assert_allclose(recorded.value("", "output"), 1 + np.full((2, 4), 3.0))


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_scanned_layers_are_numbered_through_transformations(wrap, record):
    call = partial(scanned, wrap=wrap)
    call(PARAMS, X)
    recorded = record(PARAMS, call, {"x": X})
    x = np.asarray(X, np.float64)
    for index in range(3):
        y = x @ np.asarray(PARAMS["layers"]["w"][index], np.float64)
        x = y / np.abs(y).max(-1, keepdims=True) * np.arange(1.0, 5.0)
        np.testing.assert_allclose(
            recorded.value(f"body.{index}.layer.normed"), x, rtol=1e-5, atol=1e-6
        )


def test_a_jitted_helper_is_named_by_each_of_its_callers(record):
    helper = jax.jit(normed)

    def encoder(x):
        return helper(x, 2.0) + helper(x, 3.0)

    def decoder(x):
        return helper(x, 2.0)

    recorded = record(PARAMS, lambda _params, x: decoder(encoder(x)), {"x": X})
    assert recorded.names == [
        *("(x)", "encoder(x)", "encoder.normed(x)", "encoder.normed(scale)", "encoder.normed:"),
        *("encoder.normed(x)#1", "encoder.normed(scale)#1", "encoder.normed:#1", "encoder:"),
        *("decoder(x)", "decoder.normed(x)", "decoder.normed(scale)", "decoder.normed:"),
        *("decoder:", ":"),
    ]


def test_explicit_taps_are_recorded_alone_unless_functions_are_asked_for(record):
    def call(params, x):
        return normed(firstdiff.tap("before", x), params["scale"])

    assert record(PARAMS, call, {"x": X}).names == ["(x)", "before:", ":"]
    both = record(PARAMS, call, {"x": X}, framework="functions")
    assert both.names == ["(x)", "before:", "normed(x)", "normed:", ":"]


def test_functions_do_not_double_what_modules_record(record):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return normed(nn.Dense(4)(x), 2.0)

    tree = Model().init(jax.random.key(0), X)
    recorded = record(tree, lambda tree, x: Model().apply(tree, x), {"x": X})
    assert recorded.capture.front_end == "linen"
    assert not [name for name in recorded.names if "normed" in name]
    asked = record(tree, lambda tree, x: Model().apply(tree, x), {"x": X}, framework="functions")
    assert "__call__" not in str(asked.names)
    assert "Model.normed(x)" in asked.names


def test_a_module_inside_a_plain_function_is_recorded_by_its_own_front_end(record):
    parts = {"mlp": nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "scale": jnp.ones(4)}
    recorded = record(parts, lambda p, x: normed(p["mlp"](x), p["scale"]), {"x": X})
    assert recorded.names == ["(x)", "mlp(inputs)", "mlp:", ":"]


def test_a_profiler_that_was_there_is_told_and_stays(record):
    told = []

    def profiler(frame, event, _arg):
        if event == "call":
            told.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        record(PARAMS, looped, {"x": X})
        assert sys.getprofile() is profiler
        with pytest.raises(KeyboardInterrupt):
            record(PARAMS, _interrupted, {"x": X})
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)
    assert "normed" in told


def test_a_profiler_written_in_c_goes_on_afterwards(record):
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        record(PARAMS, looped, {"x": X})
        assert sys.getprofile() is profiler
        _marked()
    finally:
        profiler.disable()
    assert any("_marked" in str(entry.code) for entry in profiler.getstats())


def _marked():
    return None


def _interrupted(params, x):
    normed(x, params["scale"])
    raise KeyboardInterrupt


def test_an_error_of_the_model_comes_through_whole(record):
    def call(params, x):
        try:
            normed(x, jnp.ones(3))
        except ValueError:
            return normed(x, params["scale"])

    recorded = record(PARAMS, call, {"x": X})
    assert recorded.names[-2:] == ["normed:#1", ":"]
