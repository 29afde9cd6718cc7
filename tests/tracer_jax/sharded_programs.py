"""Run by `test_sharding.py` in a process of its own with four host devices; every function asserts."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import firstdiff
from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.traces.schema import Axis, Key

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 16)).astype(np.float32)
UP = RNG.normal(size=(3, 16, 64), scale=0.3).astype(np.float32)
DOWN = RNG.normal(size=(3, 64, 16), scale=0.3).astype(np.float32)


def record(model, call, inputs, **options):
    events, values = [], {}

    def sink(event):
        events.append(event)
        values[event.key.path, event.key.site, event.key.leaf] = np.array(event.value)

    captured = capture_jax(model, call, inputs, sink=sink, framework="linen", **options)
    if "values" not in options:
        assert captured.output_check["bitwise"], captured.output_check
    return events, {path: v for (path, site, _), v in values.items() if site == "output"}, captured


def event_of(events, path):
    return next(event for event in events if event.key.path == path)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def layers_plain(planted=None):
    x, found = X, {}
    for i in range(3):
        h = x @ UP[i]
        found[f"layers.{i}.up"] = h
        if planted is not None and f"layers.{i}.up" in planted:
            h = planted[f"layers.{i}.up"]
        x = x + np.tanh(h) @ DOWN[i]
        found[f"layers.{i}"] = x
    return found


def named_sharding(kind):
    """A tensor-parallel scan with remat on an Auto or Explicit mesh: taps are the global tensors."""
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(kind,))
    out = {"out_sharding": P()} if kind == AxisType.Explicit else {}

    def call(w, x):
        def body(c, w):
            h = firstdiff.tap("layers.up", c @ w["up"])
            return firstdiff.tap("layers", c + jnp.matmul(jnp.tanh(h), w["down"], **out)), None

        return jax.lax.scan(jax.checkpoint(body), x, w)[0]

    with jax.set_mesh(mesh):
        w = {
            "up": jax.device_put(UP, NamedSharding(mesh, P(None, None, "tp"))),
            "down": jax.device_put(DOWN, NamedSharding(mesh, P(None, "tp", None))),
        }
        x = jax.device_put(X, NamedSharding(mesh, P()))
        events, values, captured = record(w, call, {"x": x})
        for path, expected in layers_plain().items():
            close(values[path], expected)
        assert event_of(events, "layers.1.up").axes == (Axis("scan", 3, 1),)
        assert captured.device == "4 x cpu"
        replaced = {"layers.1.up": np.ones((4, 64), np.float32)}
        keys = {Key(path, "output", "", "__call__"): value for path, value in replaced.items()}
        _, values, captured = record(w, call, {"x": x}, values=keys)
        assert captured.refused == {}
        for path, expected in layers_plain(replaced).items():
            close(values[path], expected)


def inner_shardings():
    """An inner jit keeps the shardings that the user gave it."""
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("tp"))
    inner = jax.jit(
        lambda x, w: firstdiff.tap("h", x @ w) * 2, in_shardings=(rows, None), out_shardings=rows
    )
    _, values, _ = record(jnp.asarray(UP[0]), lambda w, x: inner(x, w), {"x": jnp.asarray(X)})
    close(values["h"], X @ UP[0])


def shard_map(checked):
    """Per-shard values: whole where the program says how, shared ones once, the others as shards."""
    mesh = jax.make_mesh((2, 2), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)

    def local(w, x):
        x = firstdiff.tap("x", x)
        h = firstdiff.tap("h", x @ w["up"])
        part = firstdiff.tap("part", jnp.tanh(h) @ w["down"])
        total = firstdiff.tap("total", jax.lax.psum(part, "tp"))
        mean = firstdiff.tap("mean", jax.lax.pmean(total.mean(), "dp"))
        return firstdiff.tap("out", total + mean)

    def call(w, x):
        specs = {"up": P(None, "tp"), "down": P("tp", None)}
        mapped = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(specs, P("dp", None)),
            out_specs=P("dp", None),
            check_vma=checked,
        )
        return firstdiff.tap("after", mapped(w, x * 2))

    w = {"up": jnp.asarray(UP[0]), "down": jnp.asarray(DOWN[0])}
    events, values, _ = record(w, call, {"x": jnp.asarray(X)})
    h = (X * 2) @ UP[0]
    total = np.tanh(h) @ DOWN[0]
    close(values["x"], X * 2)
    assert event_of(events, "x").axes == ()
    assert event_of(events, "h").axes == (Axis("shards", 4),)
    close(values["h"], np.stack([h[r : r + 2, c : c + 32] for r in (0, 2) for c in (0, 32)]))
    parts = values["part"].reshape(2, 2, 2, 16)
    close(parts.sum(1).reshape(4, 16), total)
    shared = event_of(events, "mean")
    assert shared.axes == (() if checked else (Axis("shards", 4),))
    close(values["mean"], np.full(shared.value.shape, total.mean()))
    by_row = values["total"].reshape((2, 2, 16) if checked else (2, 2, 2, 16))
    close(by_row if checked else by_row[:, 0], total.reshape(2, 2, 16))
    close(values["out"], total + total.mean())
    assert event_of(events, "after").same_as == event_of(events, "out").key


def shard_map_planted(checked):
    """A whole tensor is cut as the program cuts it; shards go to their shard."""
    mesh = jax.make_mesh((2, 2), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)

    def local(w, x):
        x = firstdiff.tap("x", x)
        h = firstdiff.tap("h", x @ w)
        return firstdiff.tap("out", h + 1) * 2

    def call(w, x):
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(None, "tp"), P("dp", None)),
            out_specs=P("dp", "tp"),
            check_vma=checked,
        )(w, x)

    w = jnp.asarray(UP[0])
    whole = RNG.normal(size=X.shape).astype(np.float32)
    key = Key("x", "output", "", "__call__")
    _, values, captured = record(w, call, {"x": jnp.asarray(X)}, values={key: whole})
    assert captured.refused == {}
    close(values["x"], X)
    expected = (whole @ UP[0] + 1) * 2
    close(captured.outputs[""], expected)
    shards = RNG.normal(size=(4, 2, 32)).astype(np.float32)
    key = Key("h", "output", "", "__call__")
    _, values, captured = record(w, call, {"x": jnp.asarray(X)}, values={key: shards})
    joined = np.block([[shards[0], shards[1]], [shards[2], shards[3]]])
    close(captured.outputs[""], (joined + 1) * 2)


def loops_in_shards(checked):
    """A scan, a branch and a while loop inside `shard_map`, and a `shard_map` inside a scan."""
    mesh = jax.make_mesh((4,), ("dp",), axis_types=(AxisType.Auto,))

    def local(w, x):
        def body(c, w):
            c = firstdiff.tap("layers.mul", c * w)
            c = jax.lax.cond(w > 1, lambda c: firstdiff.tap("layers.big", c + 1), lambda c: c, c)
            grown, _ = jax.lax.while_loop(
                lambda s: s[1] < 2,
                lambda s: (firstdiff.tap("layers.grow", s[0] * 2), s[1] + 1),
                (c, 0),
            )
            return grown, None

        return jax.lax.scan(body, x, w)[0]

    def call(w, x):
        return jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("dp")), out_specs=P("dp"), check_vma=checked
        )(w, x)

    w = jnp.asarray([0.5, 1.5], jnp.float32)
    events, values, _ = record(w, call, {"x": jnp.asarray(X)})
    x = X
    for i, scale in enumerate((0.5, 1.5)):
        x = x * np.float32(scale)
        close(values[f"layers.{i}.mul"].reshape(4, 16), x)
        if scale > 1:
            x = x + 1
            close(values[f"layers.{i}.big"].reshape(4, 16), x)
        else:
            assert f"layers.{i}.big" not in values
        x = x * 4
        close(values[f"layers.{i}.grow"].reshape(4, 16), x)
    axes = event_of(events, "layers.1.grow").axes
    assert axes == (Axis("scan", 2, 1), Axis("while", 2, 1), Axis("shards", 4))

    def sharded_step(c, w):
        step = jax.shard_map(
            lambda c, w: firstdiff.tap("layers", firstdiff.tap("layers.mul", c * w) + 1),
            mesh=mesh,
            in_specs=(P("dp"), P()),
            out_specs=P("dp"),
            check_vma=checked,
        )
        return step(c, w), None

    events, values, _ = record(
        w, lambda w, x: jax.lax.scan(sharded_step, x, w)[0], {"x": jnp.asarray(X)}
    )
    close(values["layers.0.mul"].reshape(4, 16), X * 0.5)
    close(values["layers.1"], (X * 0.5 + 1) * 1.5 + 1)
    assert event_of(events, "layers.1").axes == (Axis("scan", 2, 1),)


def columns_in_shards(checked):
    """A `vmap` over columns inside shards: values come and are given with the columns in front of each shard, or of
    the whole tensor."""
    mesh = jax.make_mesh((4,), ("dp",), axis_types=(AxisType.Auto,))

    def column(x):
        x = firstdiff.tap("x", x)
        return firstdiff.tap("h", jnp.tanh(x) * 2) + 1

    def call(_w, x):
        return jax.shard_map(
            jax.vmap(column, in_axes=1, out_axes=1),
            mesh=mesh,
            in_specs=P("dp", None),
            out_specs=P("dp", None),
            check_vma=checked,
        )(x)

    x = RNG.normal(size=(8, 3)).astype(np.float32)
    given = {"x": jnp.asarray(x)}
    _, values, _ = record(jnp.ones(1), call, given)
    close(values["x"], x.T)
    close(values["h"], np.tanh(x).reshape(4, 2, 3).swapaxes(1, 2) * 2)
    whole = RNG.normal(size=(3, 8)).astype(np.float32)
    planted = {Key("x", "output", "", "__call__"): whole}
    _, values, captured = record(jnp.ones(1), call, given, values=planted)
    close(values["h"], np.tanh(whole.T).reshape(4, 2, 3).swapaxes(1, 2) * 2)
    close(captured.outputs[""], np.tanh(whole.T) * 2 + 1)
    shards = RNG.normal(size=(4, 3, 2)).astype(np.float32)
    planted = {Key("h", "output", "", "__call__"): shards}
    _, values, captured = record(jnp.ones(1), call, given, values=planted)
    close(captured.outputs[""], shards.swapaxes(1, 2).reshape(8, 3) + 1)


CASES = {
    "auto": lambda: named_sharding(AxisType.Auto),
    "explicit": lambda: named_sharding(AxisType.Explicit),
    "inner": inner_shardings,
    "shard_map checked": lambda: shard_map(True),
    "shard_map unchecked": lambda: shard_map(False),
    "planted checked": lambda: shard_map_planted(True),
    "planted unchecked": lambda: shard_map_planted(False),
    "loops checked": lambda: loops_in_shards(True),
    "loops unchecked": lambda: loops_in_shards(False),
    "columns checked": lambda: columns_in_shards(True),
    "columns unchecked": lambda: columns_in_shards(False),
}

if __name__ == "__main__":
    import traceback

    for name in sys.argv[1:] or CASES:
        try:
            CASES[name]()
            print(f"passed: {name}")
        except Exception:  # every case is reported, whatever it raises
            traceback.print_exc()
            print(f"failed: {name}")
