"""NNX models: names, shared modules, further methods, and what is left behind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from firstdiff.tracer.jax.nnx import NnxFrontEnd
from firstdiff.traces.errors import SubjectError


class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(4, 6, rngs=rngs)
        self.down = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.down(self.activated(self.up(x)))

    def activated(self, h):
        return jnp.tanh(h)


class Gated(Mlp):
    def __call__(self, x, gate=None):
        return super().__call__(x) * (1.0 if gate is None else gate)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embedder = nnx.Embed(11, 4, rngs=rngs)
        self.shared = Mlp(rngs)
        self.alias = self.shared
        self.gated = Gated(rngs)
        self.heads = nnx.Dict({"b": nnx.Linear(4, 2, rngs=rngs), "a": nnx.Linear(4, 3, rngs=rngs)})
        self.unused = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, ids, options=None):
        x = self.alias(self.shared(self.embedder(ids)))
        x = self.gated(x, gate=options["gate"])
        return {
            "b": self.heads["b"](x),
            "rest": (self.heads["a"](x), None, self.embedder.attend(x)),
        }

    def fails(self, ids):
        self.embedder(ids)
        raise KeyboardInterrupt


@pytest.fixture
def model() -> Model:
    return Model(nnx.Rngs(3))


@pytest.fixture
def inputs():
    return {"ids": jnp.array([[1, 4, 9]]), "options": {"gate": jnp.float32(0.5), "none": None}}


def test_inputs_and_outputs_are_named_by_path_method_and_leaf(model, inputs, record):
    recorded = record(model, None, inputs)
    mlp = [".up(inputs)", ".up:", ".activated(h)", ".activated:", ".down(inputs)", ".down:"]
    shared = ["shared(x)", *("shared" + name for name in mlp), "shared:"]
    assert recorded.names == [
        *("(ids)", "(options.gate)", "embedder(inputs)", "embedder:"),
        *shared,
        *(name + "#1" for name in shared),
        *("gated(x)", "gated(gate)", *("gated" + name for name in mlp), "gated:"),
        *("heads.b(inputs)", "heads.b:", "heads.a(inputs)", "heads.a:"),
        *("embedder.attend(query)", "embedder.attend:", ":b", ":rest.0", ":rest.2"),
    ]
    assert recorded.classes["shared"] == "Mlp"
    assert recorded.classes["gated"] == "Gated"
    assert recorded.capture.never_fired == ("unused",)
    assert recorded.capture.aliases == {"shared": ("alias",)}
    assert recorded.capture.modules[:4] == (
        ("", "Model"),
        ("embedder", "Embed"),
        ("shared", "Mlp"),
        ("shared.up", "Linear"),
    )


def test_values_of_shared_modules_and_other_methods(model, inputs, record):
    recorded = record(model, None, inputs)
    table = np.asarray(model.embedder.embedding[...])
    x = table[np.asarray(inputs["ids"])]
    for call in range(2):
        linear = model.shared.up
        h = np.tanh(x @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...]))
        np.testing.assert_allclose(
            recorded.value("shared", method="activated", call=call), h, rtol=2e-5, atol=1e-7
        )
        x = recorded.value("shared", call=call)
    gated = recorded.value("gated")
    np.testing.assert_allclose(
        recorded.value("embedder", method="attend"), gated @ table.T, rtol=2e-5, atol=1e-7
    )


def test_the_path_survives_nested_transformations(record):
    class Nested(nnx.Module):
        def __init__(self, rngs):
            keys = nnx.split_rngs(splits=3)
            self.layers = keys(nnx.vmap(Mlp, in_axes=(0,), out_axes=0))(rngs)

        def __call__(self, x):
            graph, state = nnx.split(self.layers)

            def body(x, layer):
                run = nnx.jit(nnx.remat(lambda m, x: m(x)))
                return x + run(nnx.merge(graph, layer), x), None

            return jax.lax.scan(body, x, state)[0]

    model = Nested(nnx.Rngs(0))
    recorded = record(model, None, {"x": jnp.ones((2, 4))})
    x = np.ones((2, 4))
    for index in range(3):
        kernels = [
            np.asarray(p[...][index], np.float64)
            for p in (model.layers.up.kernel, model.layers.down.kernel)
        ]
        up = x @ kernels[0]
        np.testing.assert_allclose(recorded.value(f"layers.{index}.up"), up, rtol=2e-5, atol=1e-6)
        x = x + np.tanh(up) @ kernels[1]
    assert recorded.capture.never_fired == ()


def test_nothing_is_left_after_an_interrupt(model, inputs, record):
    methods = [(cls, vars(cls)["__call__"]) for cls in (Mlp, Gated, Model, nnx.Linear, nnx.Embed)]
    state = {name: id(value) for name, value in vars(model).items()}
    with pytest.raises(KeyboardInterrupt):
        record(model, lambda m, ids: m.fails(ids), {"ids": inputs["ids"]})
    assert all(vars(cls)["__call__"] is method for cls, method in methods)
    assert {name: id(value) for name, value in vars(model).items()} == state
    model.embedder(inputs["ids"])


def test_an_error_of_the_model_names_itself(model, record):
    with pytest.raises(SubjectError, match="calling the model failed: TypeError"):
        record(model, None, {"words": jnp.ones(2)})


def test_a_plain_run_after_a_capture_holds_no_taps(model, inputs, record):
    run = jax.jit(lambda ids: model.embedder(ids))
    record(model, None, inputs)
    assert "firstdiff" not in str(jax.make_jaxpr(run)(inputs["ids"]))


def test_modules_inside_plain_containers():
    parts = {"encoder": Mlp(nnx.Rngs(0)), "rest": [nnx.Linear(4, 4, rngs=nnx.Rngs(1))]}
    front = NnxFrontEnd()
    assert front.handles(parts)
    assert not front.handles({"w": jnp.ones(2)})
    assert [path for path, _ in front.modules(parts)] == [
        "encoder",
        "encoder.up",
        "encoder.down",
        "rest.0",
    ]
