"""Models of two frameworks: what is recorded, under which names, with which values, and what is said of the rest."""

from __future__ import annotations

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from firstdiff.traces.errors import SubjectError

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
ROUNDING = {"rtol": 2e-5, "atol": 2e-6}


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="down")(jnp.tanh(nn.Dense(6, name="up")(x)))

    def twice(self, x):
        return 2 * self(x)


class Tail(nnx.Module):
    """NNX, with a linen MLP inside."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.mlp = nnx.bridge.ToNNX(Mlp(), rngs=rngs).lazy_init(X)

    def __call__(self, x):
        return self.mlp(self.linear(x)) + self.mlp.twice(x)


def dense(x, layer):
    """`x @ kernel + bias` in float64."""
    kernel, bias = (np.asarray(layer[name][...], np.float64) for name in ("kernel", "bias"))
    return x @ kernel + bias


def mlp(x, layers):
    """What `up` and the MLP give, in float64."""
    up = dense(x, layers["up"])
    return up, dense(np.tanh(up), layers["down"])


@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_linen_inside_nnx(record, mode):
    model = Tail(nnx.Rngs(0))
    recorded = record(model, None, {"x": X}, mode=mode)
    layers = {"up": model.mlp.up, "down": model.mlp.down}
    linear = dense(X, {"kernel": model.linear.kernel, "bias": model.linear.bias})
    for call, x in enumerate((linear, X)):
        up, down = mlp(x, layers)
        np.testing.assert_allclose(recorded.value("mlp.up", call=call), up, **ROUNDING)
        np.testing.assert_allclose(recorded.value("mlp", call=call), down, **ROUNDING)
    np.testing.assert_allclose(recorded.value("mlp", method="twice"), 2 * down, **ROUNDING)
    assert recorded.classes["mlp"] == "Mlp"
    assert recorded.capture.front_end == "nnx+linen"
    assert recorded.capture.never_fired == ()
    names = [path for path, _ in recorded.capture.modules]
    assert sorted(names) == ["", "linear", "mlp", "mlp.down", "mlp.up"]


def test_two_linen_modules_in_one_jitted_helper_keep_their_names(record):
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.bridge.ToNNX(Mlp(), rngs=rngs).lazy_init(X)
            self.second = nnx.bridge.ToNNX(Mlp(), rngs=rngs).lazy_init(X)

        def __call__(self, x):
            return run(self.second, run(self.first, x))

    run = nnx.jit(lambda module, x: module(x))
    model = Two(nnx.Rngs(0))
    run(model.first, X)
    recorded = record(model, None, {"x": X})
    x = X
    for name in ("first", "second"):
        bridge = getattr(model, name)
        up, x = mlp(x, {"up": bridge.up, "down": bridge.down})
        np.testing.assert_allclose(recorded.value(f"{name}.up"), up, **ROUNDING)
        np.testing.assert_allclose(recorded.value(name), x, **ROUNDING)


class Gated(nnx.Module):
    """NNX, to be wrapped for linen."""

    def __init__(self, features, *, rngs):
        self.up = nnx.Linear(4, features, rngs=rngs)
        self.down = nnx.Linear(features, 4, rngs=rngs)

    def __call__(self, x):
        return self.down(self.activated(x))

    def activated(self, x):
        return jnp.tanh(self.up(x))


class Wrapping(nn.Module):
    """linen, with NNX inside, twice, and scanned."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="embed")(x)
        gated = nnx.bridge.ToLinen(Gated, args=(6,), name="gated")
        return gated(x) + gated.activated(x).sum()


@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_nnx_inside_linen(record, mode):
    variables = Wrapping().init(jax.random.key(0), X)
    recorded = record(variables, lambda v, x: Wrapping().apply(v, x), {"x": X}, mode=mode)
    params = jax.tree_util.tree_map(np.asarray, variables["params"])
    x = dense(X, params["embed"])
    up, down = mlp(x, params["gated"])
    for call in range(2):
        np.testing.assert_allclose(recorded.value("gated.up", call=call), up, **ROUNDING)
        activated = recorded.value("gated", method="activated", call=call)
        np.testing.assert_allclose(activated, np.tanh(up), **ROUNDING)
    np.testing.assert_allclose(recorded.value("gated"), down, **ROUNDING)
    np.testing.assert_allclose(
        recorded.value("gated.down", "input", "inputs"), np.tanh(up), **ROUNDING
    )
    assert recorded.classes["gated"] == "Gated"
    assert recorded.capture.front_end == "linen+nnx"
    assert recorded.capture.never_fired == ()
    assert not hasattr(vars(Gated)["__call__"], "_firstdiff_patched")
    assert not hasattr(vars(nnx.Linear)["__call__"], "_firstdiff_patched")


def test_nnx_inside_scanned_linen_layers(record):
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            class Layer(nn.Module):
                @nn.compact
                def __call__(self, x, _):
                    return x + nnx.bridge.ToLinen(Gated, args=(6,), name="gated")(x), None

            stack = nn.scan(
                Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return stack(name="layers")(x, None)[0]

    variables = Scanned().init(jax.random.key(0), X)
    recorded = record(variables, lambda v, x: Scanned().apply(v, x), {"x": X})
    x = X.astype(np.float64)
    for index in range(3):
        pick = lambda leaf, index=index: np.asarray(leaf)[index]
        up, down = mlp(x, jax.tree_util.tree_map(pick, variables["params"]["layers"]["gated"]))
        np.testing.assert_allclose(recorded.value(f"layers.{index}.gated.up"), up, **ROUNDING)
        np.testing.assert_allclose(recorded.value(f"layers.{index}.gated"), down, **ROUNDING)
        x = x + down


def test_linen_inside_haiku(record):
    """The linen root stands under its caller by its class; its submodules below that."""
    inner = Mlp()
    variables = inner.init(jax.random.key(1), X)

    class Outer(hk.Module):
        def __call__(self, x):
            x = hk.Linear(4, name="linear")(x)
            return inner.apply(variables, x) + Mlp().apply(variables, x)

    forward = hk.without_apply_rng(hk.transform(lambda x: Outer(name="outer")(x)))
    params = forward.init(jax.random.key(0), X)
    recorded = record(params, lambda p, x: forward.apply(p, x), {"x": X})
    linear = params["outer/linear"]
    x = X @ np.asarray(linear["w"], np.float64) + np.asarray(linear["b"])
    up, down = mlp(x, jax.tree_util.tree_map(np.asarray, variables["params"]))
    np.testing.assert_allclose(recorded.value("outer.linear"), x, **ROUNDING)
    for call in range(2):
        np.testing.assert_allclose(recorded.value("outer.Mlp.up", call=call), up, **ROUNDING)
        np.testing.assert_allclose(recorded.value("outer.Mlp", call=call), down, **ROUNDING)
    assert recorded.capture.front_end == "haiku+linen"
    assert recorded.capture.never_fired == ()


def test_linen_and_haiku_inside_a_plain_function_without_a_model(record):
    variables = Mlp().init(jax.random.key(1), X)
    forward = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(4, name="linear")(x)))
    params = forward.init(jax.random.key(0), X)

    def call(_model, x):
        return Mlp().apply(variables, forward.apply(params, x))

    recorded = record({}, call, {"x": X})
    x = X @ np.asarray(params["linear"]["w"], np.float64)
    up, down = mlp(x, jax.tree_util.tree_map(np.asarray, variables["params"]))
    np.testing.assert_allclose(recorded.value("linear"), x, **ROUNDING)
    np.testing.assert_allclose(recorded.value("up"), up, **ROUNDING)
    np.testing.assert_allclose(recorded.value(""), down, **ROUNDING)
    assert recorded.capture.front_end == "haiku+linen"


def test_a_tree_of_two_models_names_no_modules(record):
    """`first` and `second` are no modules that never ran."""
    variables = {
        name: Mlp().init(jax.random.key(seed), X) for seed, name in enumerate(("first", "second"))
    }

    def call(model, x):
        return Mlp().apply(model["second"], Mlp().apply(model["first"], x))

    recorded = record(variables, call, {"x": X})
    x = X
    for number, name in enumerate(variables):
        up, x = mlp(x, jax.tree_util.tree_map(np.asarray, variables[name]["params"]))
        np.testing.assert_allclose(recorded.value("up", call=number), up, **ROUNDING)
    assert recorded.capture.never_fired == ()


def test_linen_that_an_nnx_module_applies_itself(record):
    class Applying(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            variables = Mlp().init(jax.random.key(1), X)
            self.up = nnx.Param(variables["params"]["up"]["kernel"])
            self.down = nnx.Param(variables["params"]["down"]["kernel"])

        def __call__(self, x):
            params = {
                "up": {"kernel": self.up[...], "bias": jnp.zeros(6)},
                "down": {"kernel": self.down[...], "bias": jnp.zeros(4)},
            }
            return Mlp().apply({"params": params}, self.linear(x))

    model = Applying(nnx.Rngs(0))
    recorded = record(model, None, {"x": X})
    up = recorded.value("linear") @ np.asarray(model.up[...])
    np.testing.assert_allclose(recorded.value("Mlp.up"), up, **ROUNDING)


class Perceptron(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.up = eqx.nn.Linear(4, 6, key=first)
        self.down = eqx.nn.Linear(6, 4, key=second)

    def __call__(self, x):
        return self.down(jnp.tanh(self.up(x)))


def test_equinox_inside_a_plain_function(record):
    model = {"scale": jnp.float32(2), "mlp": Perceptron(jax.random.key(0))}

    def call(model, x):
        return model["scale"] * jax.vmap(model["mlp"])(x)

    recorded = record(model, call, {"x": X})
    up = X @ np.asarray(model["mlp"].up.weight).T + np.asarray(model["mlp"].up.bias)
    np.testing.assert_allclose(recorded.value("mlp.up"), up, **ROUNDING)
    np.testing.assert_allclose(recorded.value(""), 2 * recorded.value("mlp"), **ROUNDING)
    assert recorded.capture.notes == ()
    assert recorded.capture.never_fired == ()


def test_equinox_arrays_without_their_module_are_refused_with_the_remedy(record):
    params, static = eqx.partition(Perceptron(jax.random.key(0)), eqx.is_array)
    with pytest.raises(SubjectError, match="make the whole module the model"):
        record(params, lambda p, x: jax.vmap(eqx.combine(p, static))(x), {"x": X})


def test_equinox_inside_nnx_and_linen(record):
    inner = Perceptron(jax.random.key(0))

    class Outer(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.mlp = nnx.data(inner)

        def __call__(self, x):
            return jax.vmap(self.mlp)(self.linear(x))

    class Around(nn.Module):
        mlp: object

        @nn.compact
        def __call__(self, x):
            return jax.vmap(self.mlp)(nn.Dense(4, name="linear")(x))

    variables = Around(inner).init(jax.random.key(0), X)
    linen = {"variables": variables, "mlp": inner}
    for model, call in (
        (Outer(nnx.Rngs(0)), None),
        (linen, lambda m, x: Around(m["mlp"]).apply(m["variables"], x)),
    ):
        recorded = record(model, call, {"x": X})
        x = recorded.value("linear")
        up = x @ np.asarray(inner.up.weight).T + np.asarray(inner.up.bias)
        np.testing.assert_allclose(recorded.value("mlp.up"), up, **ROUNDING)
        assert recorded.capture.notes == ()


def keras_layer():
    layer = keras.layers.Dense(4)
    layer.build((3, 4))
    return layer


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Perceptron(jax.random.key(0)), "Perceptron"),
        (lambda: nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "Linear"),
        (keras_layer, "Dense"),
    ],
    ids=["equinox", "nnx", "keras"],
)
def test_a_module_that_the_call_brings_along_is_noted(record, make, name):
    held = make()

    def helper(x):
        return held(x[0][None])[0] if name == "Dense" else held(x[0])

    def call(model, x):
        return model["scale"] * helper(x)

    recorded = record({"scale": jnp.float32(2)}, call, {"x": X})
    (note,) = recorded.capture.notes
    assert note == (
        f"the call reaches {name} 'held' by itself and not through its model argument: where it runs, nothing of it "
        "is recorded; make it the model, or a part of it"
    )


TABLE = {1: "a dict that JAX cannot walk", "b": [0] * 5000}


def test_what_else_a_call_holds_is_let_be(record):
    held = [{"inner": nnx.Linear(4, 4, rngs=nnx.Rngs(0))}]

    def call(model, x):
        return model["scale"] * x * len(TABLE)

    assert record({"scale": jnp.float32(2)}, call, {"x": X}).capture.notes == ()
    (note,) = record({}, lambda _m, x: held[0]["inner"](x) + len(TABLE), {"x": X}).capture.notes
    assert note.startswith("the call reaches list 'held' by itself")


def test_a_call_that_uses_the_model_of_its_surroundings_is_noted(record):
    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    (note,) = record(model, lambda _m, x: model(x), {"x": X}).capture.notes
    assert note.startswith("the call reaches Linear 'model' by itself")
    size = lambda m, x: m(x) * model.out_features
    assert record(model, size, {"x": X}).capture.notes == ()


def test_a_graph_definition_without_its_model_is_noted(record):
    graph, state = nnx.split(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
    (note,) = record(state, lambda s, x: nnx.merge(graph, s)(x), {"x": X}).capture.notes
    assert note.startswith("the call reaches GraphDef 'graph' by itself")
