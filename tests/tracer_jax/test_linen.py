"""The linen front end: names, arguments, shared modules, lifted transformations."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from firstdiff.tracer.jax.linen import LinenFrontEnd, class_name
from firstdiff.traces.schema import Axis


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="down")(nn.gelu(nn.Dense(16, name="up")(x)))


class Block(nn.Module):
    def setup(self):
        self.norm = nn.LayerNorm()
        self.mlp = Mlp()
        self.unused = [nn.Dense(8)]

    def halved(self, h):
        return h / 2

    @nn.nowrap
    def hidden(self, h):
        return h * 1.5

    def __call__(self, x, *, scale, mask=None):
        assert mask is None
        h = self.halved(self.mlp(self.norm(x)))
        return x + self.hidden(h) * scale, {"aux": h.mean(), "none": None, "count": 3}


class Model(nn.Module):
    @nn.compact
    def __call__(self, ids, deterministic=True):
        assert deterministic
        embed = nn.Embed(11, 8, name="embed")
        x = embed(ids)
        block = Block(name="shared")
        for _ in range(2):
            x, _aux = block(x, scale=jnp.float32(2), mask=None)
        x = nn.remat(Mlp)(name="remat")(x)
        return embed.attend(x)


class ScanBlock(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return x + Mlp(name="mlp")(x) * mask, None


class Stack(nn.Module):
    remat: bool = False
    named: bool = True

    @nn.compact
    def __call__(self, x, mask):
        body = nn.remat(ScanBlock, prevent_cse=False) if self.remat else ScanBlock
        stack = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=3,
        )
        x, _ = (stack(name="layers") if self.named else stack())(x, mask)
        return nn.Dense(4, name="head")(x)


def randomised(variables):
    """Weights that tell every module apart, biases included."""
    leaves, structure = jax.tree_util.tree_flatten(variables)
    rng = np.random.default_rng(3)
    drawn = [
        jnp.asarray(rng.normal(size=leaf.shape, scale=0.4).astype(np.float32)) for leaf in leaves
    ]
    return jax.tree_util.tree_unflatten(structure, drawn)


@pytest.fixture
def ids():
    return jnp.asarray([[3, 1, 4, 1, 5]])


@pytest.fixture
def variables(ids):
    return randomised(Model().init(jax.random.key(0), ids))


def apply(variables, ids):
    return Model().apply(variables, ids)


def test_every_module_is_recorded_in_order_with_its_arguments(record, variables, ids):
    recorded = record(variables, apply, {"ids": ids})
    block = [
        "shared:input:x{}",
        "shared:input:scale{}",
        "shared.norm:input:x{}",
        "shared.norm:output:{}",
        "shared.mlp:input:x{}",
        "shared.mlp.up:input:inputs{}",
        "shared.mlp.up:output:{}",
        "shared.mlp.down:input:inputs{}",
        "shared.mlp.down:output:{}",
        "shared.mlp:output:{}",
        "shared:input:h{}",
        "shared:output:{}",
        "shared:output:0{}",
        "shared:output:1.aux{}",
    ]
    mlp = [name.format("") for name in block[4:10]]
    assert recorded.names() == [
        "embed:input:inputs",
        "embed:output:",
        *(name.format("") for name in block),
        *(name.format("#1") for name in block),
        *(name.replace("shared.mlp", "remat") for name in mlp),
        "embed:input:query",
        "embed:output:",
    ]
    methods = {key.path: set() for key in recorded.keys}
    for key in recorded.keys:
        methods[key.path].add(key.method)
    assert methods["shared"] == {"__call__", "halved"}
    assert methods["embed"] == {"__call__", "attend"}
    assert recorded.capture.front_end == "linen"


def test_values_are_those_of_the_modules_run_alone(record, variables, ids):
    recorded = record(variables, apply, {"ids": ids})
    params = variables["params"]
    mlp = jax.jit(lambda p, x: Mlp().apply({"params": p}, x))
    for path, leaf, call in (("shared.mlp", "x", 0), ("shared.mlp", "x", 1), ("remat", "x", 0)):
        tree = params["shared"]["mlp"] if path != "remat" else params["remat"]
        expected = mlp(tree, recorded.value(path, "input", leaf, call))
        got = recorded.value(path, call=call)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    halved = recorded.value("shared.mlp") / 2
    block = next(
        value
        for event, value in zip(recorded.events, recorded.values, strict=True)
        if event.key.method == "halved" and event.key.site == "output"
    )
    np.testing.assert_array_equal(block, halved)
    np.testing.assert_array_equal(recorded.value(""), jax.jit(apply)(variables, ids))


def test_the_root_is_the_module_not_the_call(record, variables, ids):
    recorded = record(variables, lambda v, tokens: apply(v, tokens), {"tokens": ids})
    assert [name for name in recorded.names(whole=True) if name.startswith(":")] == [
        ":input:ids",
        ":output:",
    ]


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_a_scanned_stack_is_numbered(record, remat, mode):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32))
    mask = jnp.asarray([[1.0], [0.5]])
    model = Stack(remat=remat)
    variables = randomised(model.init(jax.random.key(0), x, mask))
    inputs = {"x": x, "mask": mask}
    recorded = record(variables, lambda v, **kw: model.apply(v, **kw), inputs, mode=mode)
    inner = [
        ":input:x",
        ":input:mask",
        ".mlp:input:x",
        ".mlp.up:input:inputs",
        ".mlp.up:output:",
        ".mlp.down:input:inputs",
        ".mlp.down:output:",
        ".mlp:output:",
        ":output:0",
    ]
    layers = [f"layers.{i}{name}" for i in range(3) for name in inner]
    assert recorded.names() == [*layers, "head:input:inputs", "head:output:"]
    assert recorded.event("layers.2", "input", "mask").same_as is not None
    params = variables["params"]["layers"]
    block = jax.jit(lambda p, x: ScanBlock().apply({"params": p}, x, mask)[0])
    for i in range(3):
        x = block(jax.tree_util.tree_map(lambda leaf, i=i: leaf[i], params), x)
        got = recorded.value(f"layers.{i}", leaf="0")
        np.testing.assert_allclose(got, x, rtol=2e-5, atol=1e-5)
    assert {event.class_name for event in recorded.events} == {"Stack", "ScanBlock", "Mlp", "Dense"}
    assert recorded.event("layers.1.mlp").axes == (Axis("scan", 3, 1),)
    assert ("layers.2.mlp.up", "Dense") in recorded.capture.modules
    assert recorded.capture.never_fired == ()


def test_an_unnamed_rematerialised_stack_keeps_linens_spelling(record):
    x, mask = jnp.ones((2, 8)), jnp.ones((2, 1))
    model = Stack(remat=True, named=False)
    variables = randomised(model.init(jax.random.key(0), x, mask))
    (stack,) = set(variables["params"]) - {"head"}
    names = record(variables, lambda v, **kw: model.apply(v, **kw), {"x": x, "mask": mask}).names()
    assert f"{stack}.2.mlp.up:output:" in names


def test_vmapped_experts(record):
    class Experts(nn.Module):
        @nn.compact
        def __call__(self, x):
            experts = nn.vmap(Mlp, variable_axes={"params": 0}, split_rngs={"params": True})
            return experts(name="experts")(x)

    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 8)).astype(np.float32))
    variables = randomised(Experts().init(jax.random.key(0), x))
    recorded = record(variables, lambda v, x: Experts().apply(v, x), {"x": x})
    assert recorded.event("experts.up").axes == (Axis("vmap", 3),)
    for i in range(3):
        one = jax.tree_util.tree_map(lambda leaf, i=i: leaf[i], variables["params"]["experts"])
        expected = Mlp().apply({"params": one}, x[i])
        got = recorded.value("experts")[i]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)


def test_a_warm_jitted_apply_is_recorded(record, variables, ids):
    warm = jax.jit(apply)
    warm(variables, ids)
    assert (
        record(variables, warm, {"ids": ids}).names()
        == record(variables, apply, {"ids": ids}).names()
    )


def test_modules_that_never_fired_are_listed(record):
    class Half(nn.Module):
        def setup(self):
            self.used, self.idle = nn.Dense(4), nn.Dense(4)

        def __call__(self, x, everything=False):
            return self.used(x) + (self.idle(x) if everything else 0)

    x = jnp.ones((2, 4))
    variables = randomised(Half().init(jax.random.key(0), x, True))
    recorded = record(variables, lambda v, x: Half().apply(v, x), {"x": x})
    assert recorded.capture.never_fired == ("idle",)
    assert dict(recorded.capture.modules) == {"": "Half", "used": "Dense", "idle": ""}


def test_fields_of_the_given_module_are_listed_too():
    class Outer(nn.Module):
        inner: nn.Module
        drop: nn.Module

    outer = Outer(inner=nn.Dense(3), drop=nn.Dropout(0.5))
    front = LinenFrontEnd()
    params = {"params": {"inner": {"kernel": np.ones((2, 3))}}}
    assert front.modules(params, outer) == [("", "Outer"), ("inner", "Dense"), ("drop", "Dropout")]
    assert front.modules(params["params"]) == [("", ""), ("inner", "")]


def test_class_names_are_their_authors():
    assert class_name(nn.remat(Mlp)) == "Mlp"
    assert class_name(nn.jit(nn.remat(Mlp))) == "Mlp"
    assert class_name(Mlp) == "Mlp"


def test_nothing_is_left_behind(variables, ids, record):
    before = str(jax.make_jaxpr(apply)(variables, ids))
    record(variables, apply, {"ids": ids})
    assert str(jax.make_jaxpr(apply)(variables, ids)) == before
    assert not list(nn.module._global_interceptor_stack)
