"""Taps inside jit, remat, custom derivatives, vmap and branches, against plain recomputation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import firstdiff
from firstdiff.tracer.jax.recording import Recording
from firstdiff.traces.schema import Axis


def doubled(x):
    return firstdiff.tap("double", x * 2)


def test_an_inner_jit_called_twice_is_two_calls(record, x):
    inner = jax.jit(doubled)
    recorded = record(jnp.float32(3), lambda m, x: inner(inner(x) * m), {"x": x})
    assert recorded.names() == ["double:output:", "double:output:#1"]
    np.testing.assert_array_equal(recorded.value("double"), x * 2)
    np.testing.assert_array_equal(recorded.value("double", call=1), x * 12)


def test_a_warm_inner_jit_is_not_bypassed_and_keeps_no_taps(record, x):
    inner = jax.jit(doubled)
    inner(x)
    assert record(jnp.float32(3), lambda m, x: inner(x) * m, {"x": x}).names() == ["double:output:"]
    assert "firstdiff_tap" not in str(jax.make_jaxpr(lambda x: inner(x))(x))
    assert record(jnp.float32(3), lambda m, x: inner(x) * m, {"x": x}).names() == ["double:output:"]


def test_a_jitted_helper_shared_by_scopes_is_named_after_each(record, x):
    """A helper's trace is cached by JAX; its taps must not keep the name of the first module that called it."""
    from firstdiff.tracer.jax.call import tap_call

    helper = jax.jit(doubled)

    def call(model, x):
        for path in ("first", "second"):
            x = tap_call(lambda x: helper(x) + model, (x,), {}, path=path, class_name="Block")
        return x

    names = record(jnp.float32(3), call, {"x": x}).names()
    assert [name for name in names if "double" in name] == [
        "first.double:output:",
        "second.double:output:",
    ]


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: jax.jit(f, donate_argnums=0),
        lambda f: jax.jit(f, static_argnums=()),
    ],
    ids=["jit", "remat", "nested", "donated", "static"],
)
def test_calls(record, x, wrap):
    def body(x):
        return firstdiff.tap("a", jnp.sin(x)) + 1

    inputs = {"x": x}
    recorded = record(jnp.float32(3), lambda m, x: wrap(body)(x * m), inputs)
    assert recorded.names() == ["a:output:"]
    expected = jax.jit(lambda x: jnp.sin(x * 3))(x)
    np.testing.assert_allclose(recorded.value("a"), expected, rtol=1e-6)
    np.testing.assert_array_equal(recorded.value("", "input", "x"), x)
    assert not inputs["x"].is_deleted()


def test_custom_derivatives(record, x):
    @jax.custom_vjp
    def one(x):
        return firstdiff.tap("vjp", x * 3)

    one.defvjp(lambda x: (x * 3, None), lambda _, g: (g * 3,))

    @jax.custom_jvp
    def two(x):
        return firstdiff.tap("jvp", x + 1)

    two.defjvp(lambda p, t: (p[0] + 1, t[0]))
    recorded = record(jnp.float32(3), lambda m, x: two(one(x)) * m, {"x": x})
    np.testing.assert_array_equal(recorded.value("vjp"), x * 3)
    np.testing.assert_array_equal(recorded.value("jvp"), x * 3 + 1)


@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_puts_the_batch_first(record, x, axis):
    def call(model, x):
        return jax.vmap(lambda row: firstdiff.tap("row", row * model), in_axes=axis)(x)

    recorded = record(jnp.float32(3), call, {"x": x})
    np.testing.assert_array_equal(recorded.value("row"), np.moveaxis(np.asarray(x) * 3, axis, 0))
    assert recorded.event("row").axes == (Axis("vmap", x.shape[axis]),)


def test_vmap_costs_the_program_nothing(record, x):
    """The batch axis is brought to the front on the host: the program that runs is the plain one."""

    def call(model, x):
        rows = jax.vmap(lambda row: firstdiff.tap("row", row * model), in_axes=1, out_axes=1)(x)
        return firstdiff.tap("rows", rows)

    recording = Recording(jnp.float32(3), call, lambda _event: None, framework="linen")
    program, (run,) = recording._program(recording._tracing.given({"x": x}))
    traced = jax.make_jaxpr(lambda: run._execute([jnp.float32(3), x], {}))()
    assert "transpose" not in str(traced)
    assert "transpose" not in str(program.jaxpr)
    recorded = record(jnp.float32(3), call, {"x": x})
    np.testing.assert_array_equal(recorded.value("row"), np.asarray(x).T * 3)
    np.testing.assert_array_equal(recorded.value("rows"), np.asarray(x) * 3)
    assert recorded.event("rows").same_as is None


def test_nested_vmap_has_its_axes_outermost_first(record):
    value = jnp.arange(24.0).reshape(2, 3, 4)

    def call(model, value):
        one = lambda v: firstdiff.tap("v", v * model)
        return jax.vmap(jax.vmap(one, in_axes=1), in_axes=0)(value)

    recorded = record(jnp.float32(3), call, {"value": value})
    assert recorded.event("v").axes == (Axis("vmap", 2), Axis("vmap", 4))
    np.testing.assert_array_equal(recorded.value("v"), np.swapaxes(value * 3, 1, 2))


def test_what_vmap_does_not_map_has_no_batch(record, x):
    def call(model, x):
        return jax.vmap(lambda row: row * firstdiff.tap("shared", model + 1))(x)

    recorded = record(jnp.float32(3), call, {"x": x})
    assert recorded.value("shared") == 4
    assert recorded.event("shared").axes == ()


def test_vmap_over_a_scan_and_a_scan_over_vmap(record, x, weights):
    w = weights["up"][:, :, :8]

    def scanned(model, row):
        body = lambda c, w: (firstdiff.tap("layers", c @ w), None)
        return jax.lax.scan(body, row, model)[0]

    recorded = record(w, lambda m, x: jax.vmap(lambda row: scanned(m, row))(x), {"x": x})
    assert recorded.names() == [f"layers.{i}:output:" for i in range(4)]
    value = x
    for index in range(4):
        value = value @ w[index]
        np.testing.assert_allclose(recorded.value(f"layers.{index}"), value, rtol=1e-4, atol=1e-5)
    assert recorded.event("layers.1").axes == (Axis("scan", 4, 1), Axis("vmap", 2))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_switch_gives_the_branch_taken(record, x, which):
    def call(model, x, which):
        branches = [
            lambda x: firstdiff.tap("zero", x * model),
            lambda x: firstdiff.tap("one.b", firstdiff.tap("one.a", x + model).sum(0) + x),
            lambda x: x,
        ]
        return jax.lax.switch(which, branches, x)

    recorded = record(jnp.float32(3), call, {"x": x, "which": jnp.int32(which)})
    expected = [["zero:output:"], ["one.a:output:", "one.b:output:"], []][which]
    assert recorded.names() == expected
    for name in expected:
        assert recorded.event(name.split(":")[0]).axes == (Axis("cond", 3, which),)
    if which == 0:
        np.testing.assert_array_equal(recorded.value("zero"), x * 3)
    if which == 1:
        np.testing.assert_array_equal(recorded.value("one.a"), x + 3)


def test_a_module_in_a_branch_that_is_not_taken_does_not_count_as_a_call(record, x):
    def call(model, x, flag):
        x = jax.lax.cond(flag, lambda x: firstdiff.tap("m", x + 1), lambda x: x, x)
        return firstdiff.tap("m", x * model)

    for flag, count in ((True, 2), (False, 1)):
        names = record(jnp.float32(3), call, {"x": x, "flag": jnp.asarray(flag)}).names()
        assert names == ["m:output:", "m:output:#1"][:count]


def test_a_scan_inside_a_branch(record, x, weights):
    w = weights["up"][:, :, :8]

    def call(model, x, flag):
        def scanned(x):
            return jax.lax.scan(lambda c, w: (firstdiff.tap("layers", c @ w), None), x, model)[0]

        return jax.lax.cond(flag, scanned, lambda x: x, x)

    recorded = record(w, call, {"x": x, "flag": jnp.asarray(True)})
    assert recorded.names() == [f"layers.{i}:output:" for i in range(4)]
    np.testing.assert_allclose(recorded.value("layers.1"), x @ w[0] @ w[1], rtol=1e-4, atol=1e-5)
    assert record(w, call, {"x": x, "flag": jnp.asarray(False)}).names() == []


def test_gradients_pass_a_tap(record, x):
    def call(model, x):
        return jax.grad(lambda x: (firstdiff.tap("sq", x**2) * model).sum())(x)

    recorded = record(jnp.float32(3), call, {"x": x})
    np.testing.assert_allclose(recorded.value("sq"), x**2, rtol=1e-6)
    np.testing.assert_allclose(recorded.value("", "output"), 6 * x, rtol=1e-6)


def test_an_unknown_transformation_is_noted_not_silent(record, x):
    def call(model, x):
        solve = lambda _, b: firstdiff.tap("solve", b / model)
        y = jax.lax.custom_linear_solve(lambda v: v * model, x, solve, symmetric=True)
        return firstdiff.tap("after", y)

    recorded = record(jnp.float32(3), call, {"x": x})
    assert recorded.names() == ["after:output:"]
    (note,) = recorded.capture.notes
    assert note.startswith("taps inside 'custom_linear_solve' (")
    assert note.endswith("are not recorded: this transformation is not known")
