"""Keras models: names, masks, shared layers, stateless calls, and what is left behind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from firstdiff.tracer.jax.keras import KerasFrontEnd
from firstdiff.traces.errors import SubjectError

IDS = jnp.array([[1, 4, 9, 0, 0]])


class Block(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True
        self.norm = keras.layers.LayerNormalization()
        self.parts = [keras.layers.Dense(6), keras.layers.Dense(4, name="down")]
        self.dropout = keras.layers.Dropout(0.5)

    def build(self, shape):
        self.norm.build(shape)
        self.parts[0].build(shape)
        self.parts[1].build((*shape[:-1], 6))

    def call(self, x, training=False, mask=None):
        assert mask is not None
        y = self.parts[1](keras.ops.tanh(self.parts[0](self.norm(x))))
        return x + self.dropout(y, training=training), {"aux": y, "none": None}


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(11, 4, mask_zero=True)
        self.blocks = [Block(name=f"block_{index}") for index in range(2)]
        self.shared = keras.layers.Dense(4)
        self.recurrent = keras.layers.SimpleRNN(3)
        self.head = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])

    def call(self, ids):
        x = self.encode(ids)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.recurrent(self.shared(self.shared(x))))

    def encode(self, ids):
        return self.embed(ids)


@pytest.fixture(scope="module")
def model() -> Model:
    keras.utils.set_random_seed(1)
    made = Model()
    made(IDS)
    return made


def test_inputs_and_outputs_are_named_by_path_method_and_leaf(model, record):
    recorded = record(model, None, {"ids": IDS})
    parts = [".norm", ".parts.0", ".down", ".dropout"]
    block = [
        "(x)",
        "(mask)",
        *(name for part in parts for name in (part + "(inputs)", part + ":")),
        ":0",
        ":1.aux",
    ]
    outer = [name for name in recorded.names if not name.startswith("recurrent.cell")]
    expected = [
        *("(ids)", ".encode(ids)", "embed(inputs)", "embed:", ".encode:"),
        *(f"blocks.{index}{name}" for index in range(2) for name in block),
        *("shared(inputs)", "shared:", "shared(inputs)#1", "shared:#1"),
        *("recurrent(sequences)", "recurrent:"),
        *("head(inputs)", "head.0(inputs)", "head.0:", "head.1(inputs)", "head.1:", "head:", ":"),
    ]
    assert [name for name in outer if "mask" not in name] == [
        name for name in expected if "mask" not in name
    ]
    assert recorded.classes["blocks.1"] == "Block"
    assert recorded.capture.never_fired == ()
    assert recorded.capture.front_end == "keras"


def test_masks_go_on_to_the_layers_that_need_them(model, record):
    """An RNN with a mask keeps its state over padding; without one it does not."""
    truth = np.asarray(model(IDS))
    recorded = record(model, None, {"ids": IDS})
    np.testing.assert_allclose(recorded.value(""), truth, rtol=1e-5, atol=1e-6)
    unmasked = np.asarray(model.recurrent(jnp.asarray(recorded.value("shared", call=1))))
    assert np.abs(unmasked - recorded.value("recurrent")).max() > 1e-3


def test_values_of_a_shared_layer(model, record):
    recorded = record(model, None, {"ids": IDS})
    kernel, bias = (np.asarray(v.value) for v in model.shared.weights)
    for call in range(2):
        x = recorded.value("shared", "input", "inputs", call=call)
        np.testing.assert_allclose(
            recorded.value("shared", call=call), x @ kernel + bias, rtol=2e-5, atol=1e-6
        )


def test_stateless_calls_and_other_methods(model, record):
    def stateless(model, ids):
        trained, fixed = model.trainable_variables, model.non_trainable_variables
        return model.stateless_call(trained, fixed, ids)[0]

    whole, plain = record(model, stateless, {"ids": IDS}), record(model, None, {"ids": IDS})
    assert whole.names == plain.names
    np.testing.assert_allclose(whole.value(""), plain.value(""), rtol=1e-6)
    part = record(model, lambda m, ids: m.blocks[0].norm(m.encode(ids)), {"ids": IDS})
    assert part.names == [
        *("(ids)", ".encode(ids)", "embed(inputs)", "embed:", ".encode:"),
        *("blocks.0.norm(inputs)", "blocks.0.norm:", ":"),
    ]


def test_a_class_with_a_call_of_its_own_is_recorded_once(record):
    class Task(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

        def call(self, x):
            return self.dense(x)

    task = Task()
    task(jnp.ones((1, 3)))
    recorded = record(task, None, {"x": jnp.ones((1, 3))})
    assert recorded.names == ["(x)", "dense(inputs)", "dense:", ":"]
    assert recorded.capture.never_fired == ()


def test_functional_models_are_numbered_within_themselves(record):
    def build():
        x = keras.Input((3,))
        h = keras.layers.Dense(4)(x)
        both = keras.layers.Add()([h, keras.layers.Dense(4)(h)])
        return keras.Model(x, keras.layers.Dense(2, name="head")(both))

    first, second = (record(build(), None, {"inputs": jnp.ones((2, 3))}) for _ in range(2))
    assert first.names == second.names
    assert [name for name in first.names if name.endswith(":")] == [
        "dense:",
        "dense_1:",
        "add:",
        "head:",
        ":",
    ]


def test_the_model_keeps_its_variables_and_classes(model, record):
    call, stateless = keras.Layer.__call__, keras.Layer.stateless_call
    values = [np.asarray(v.value) for v in model.variables]

    def training(model, ids):
        return model.blocks[0](model.encode(ids), training=True)[0]

    record(model, training, {"ids": IDS})
    with pytest.raises(KeyboardInterrupt):
        record(model, _interrupted, {"ids": IDS})
    assert keras.Layer.__call__ is call
    assert keras.Layer.stateless_call is stateless
    for variable, value in zip(model.variables, values, strict=True):
        assert isinstance(variable.value, jax.Array)
        np.testing.assert_array_equal(np.asarray(variable.value), value)


def _interrupted(model, ids):
    model(ids)
    raise KeyboardInterrupt


def test_a_model_without_weights_yet_is_refused():
    with pytest.raises(SubjectError, match="is not built and has no weights yet; call it once"):
        KerasFrontEnd().split(Model())


def test_who_handles_what(model):
    assert KerasFrontEnd().handles(model)
    assert not KerasFrontEnd().handles({"w": jnp.ones(2)})
