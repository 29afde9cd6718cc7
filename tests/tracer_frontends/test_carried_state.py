"""State that a model changes in place goes from step to step, as in a plain run; the user's model keeps its own."""

from __future__ import annotations

import copy

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import firstdiff
from firstdiff.tracer.jax.recording import Recording
from firstdiff.traces import open_trace
from firstdiff.traces.schema import Key

WAYS = [{}, {"mode": "eager"}, {"passes": 3}, {"stream": True}]
ROUNDING = {"rtol": 2e-5, "atol": 2e-6}
XS = [np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32) for seed in range(3)]
STEPS = [{"x": x} for x in XS]


class Mean(nnx.Module):
    """A cache of all rows so far, a running average, and noise."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.rows = nnx.Cache(jnp.zeros((8, 4)))
        self.count = nnx.Cache(jnp.int32(0))

    def __call__(self, x):
        h = self.dropout(self.norm(self.linear(x)))
        rows = jax.lax.dynamic_update_slice(self.rows[...], h, (self.count[...], 0))
        self.rows[...] = rows
        self.count[...] = self.count[...] + x.shape[0]
        return rows.sum(0) / self.count[...]


def arrays(model):
    state = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(state)]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_an_nnx_cache_average_and_noise_are_those_of_plain_calls(record, options):
    model, plain = Mean(nnx.Rngs(0, dropout=1)), Mean(nnx.Rngs(0, dropout=1))
    before = arrays(model)
    recorded = record(model, None, STEPS, **options)
    for step, x in enumerate(XS):
        linear = np.asarray(plain.linear(jnp.asarray(x)))
        np.testing.assert_allclose(recorded.value("linear", step=step), linear, **ROUNDING)
        result = np.asarray(plain(jnp.asarray(x)))
        np.testing.assert_allclose(recorded.value("", step=step), result, **ROUNDING)
    assert recorded.capture.notes == ()
    assert recorded.capture.output_check["max_abs"] < 1e-5
    for ours, theirs in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Growing(nnx.Module):
    """Keys of all tokens so far, in an array that grows, and a counter that Python holds."""

    def __init__(self, rngs):
        self.key = nnx.Linear(4, 4, rngs=rngs)
        self.calls = 0

    def __call__(self, x):
        keys = self.key(x)
        self.keys = nnx.Cache(jnp.concatenate([self.keys[...], keys]) if self.calls else keys)
        self.calls += 1
        return self.keys[...].sum(0) * self.calls


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_variable_that_a_step_adds_and_the_next_ones_grow(record, options):
    model = Growing(nnx.Rngs(0))
    recorded = record(model, None, STEPS, **options)
    kernel = np.asarray(model.key.kernel[...], np.float64)
    for step in range(3):
        rows = np.concatenate(XS[: step + 1])
        truth = (rows @ kernel).sum(0) * (step + 1)
        np.testing.assert_allclose(recorded.value("", step=step), truth, **ROUNDING)
        key = recorded.value("key", step=step)
        np.testing.assert_allclose(key, XS[step] @ kernel, **ROUNDING)
    assert not hasattr(model, "keys")
    assert model.calls == 0
    assert recorded.capture.notes == ()


class Scanned(nnx.Module):
    """Layers with a cache each, scanned."""

    def __init__(self, rngs):
        make = nnx.vmap(Mean, in_axes=(0,), out_axes=0)
        self.layers = nnx.split_rngs(splits=2)(make)(rngs)

    def __call__(self, x):
        def body(x, layer):
            return x + layer(x)

        return nnx.scan(body, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=str)
def test_caches_of_scanned_layers(record, options):
    plain = Scanned(nnx.Rngs(0, dropout=1))
    recorded = record(Scanned(nnx.Rngs(0, dropout=1)), None, STEPS, **options)
    for step, x in enumerate(XS):
        truth = np.asarray(plain(jnp.asarray(x)))
        np.testing.assert_allclose(recorded.value("", step=step), truth, **ROUNDING)
    layers = {key[0] for key in recorded.values if key[0].endswith(".norm")}
    assert layers == {"layers.0.norm", "layers.1.norm"}


def test_planted_values_go_into_the_state(record):
    """What a step leaves behind is what it computed from planted values."""
    model = Growing(nnx.Rngs(0))
    zeros = np.zeros((2, 4), np.float32)
    key = Key("key", "output", "", "__call__", 0, 0)
    recorded = record(model, None, STEPS[:2], values={key: zeros})
    second = recorded.value("key", step=1)
    np.testing.assert_allclose(second, XS[1] @ np.asarray(model.key.kernel[...]), **ROUNDING)
    np.testing.assert_allclose(recorded.value("", step=1), second.sum(0) * 2, **ROUNDING)
    assert recorded.capture.planted == (key,)


class Layers(keras.Model):
    """A running average, noise, and a count that the model itself assigns."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, name="first")
        self.norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
        self.noise = keras.layers.Dropout(0.5, seed=3, name="noise")

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build(shape)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x, training=False):
        self.count.assign(self.count + 1)
        h = self.noise(self.norm(self.dense(x), training=training), training=training)
        return h * self.count


def layers():
    keras.utils.set_random_seed(5)
    model = Layers()
    model.build((2, 4))
    return model


def twice(model, x):
    """Two calls, which make noise of their own and count on."""
    return model(x, training=True) + model(x, training=True)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_keras_averages_seeds_and_counts_are_those_of_plain_calls(record, options):
    model, plain = layers(), layers()
    before = [np.asarray(variable.value) for variable in model.variables]
    recorded = record(model, twice, STEPS, **options)
    for step, x in enumerate(XS):
        result = np.asarray(twice(plain, jnp.asarray(x)))
        np.testing.assert_allclose(recorded.value("", step=step), result, **ROUNDING)
        one = recorded.value("noise", step=step) == 0
        other = recorded.value("noise", step=step, call=1) == 0
        assert (one != other).any()
    inferred = np.asarray(plain(jnp.asarray(XS[0])))
    assert np.abs(inferred - np.asarray(model(jnp.asarray(XS[0])))).max() > 1e-2
    for variable, value in zip(model.variables, before, strict=True):
        if variable.name != "count":
            np.testing.assert_array_equal(np.asarray(variable.value), value)
    assert recorded.capture.notes == ()


def test_a_keras_variable_that_the_call_itself_assigns_keeps_its_value(record):
    model = layers()

    def call(model, x):
        trained, fixed = model.trainable_variables, model.non_trainable_variables
        values = [[variable.value for variable in group] for group in (trained, fixed)]
        result, changed = model.stateless_call(*values, x)
        for variable, value in zip(fixed, changed, strict=True):
            variable.assign(value)
        return result

    recorded = record(model, call, STEPS)
    first = recorded.value("", step=0)
    again = record(model, call, [STEPS[0], STEPS[0]])
    np.testing.assert_allclose(again.value("", step=1), 2 * first, **ROUNDING)
    assert float(model.count.value) == 0


class Averaged(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(4, name="dense")(x)
        rows = self.variable("cache", "rows", jnp.zeros, (4,))
        rows.value = rows.value + h.sum(0)
        return rows.value


@pytest.fixture(scope="module")
def averaged():
    variables = Averaged().init(jax.random.key(0), jnp.zeros((2, 4)))
    return jax.tree_util.tree_map(lambda leaf: leaf + 0, {**variables})


def sums(kernel):
    """The sum over all rows so far, for each step; the cache holds that of `init` on zeros: nothing."""
    return [(np.concatenate(XS[: step + 1]) @ kernel).sum(0) for step in range(3)]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_linen_collections_that_the_call_stores(record, averaged, options):
    def call(variables, x):
        result, changed = Averaged().apply(variables, x, mutable=["cache"])
        variables.update(changed)
        return result

    given = copy.copy(averaged)
    recorded = record(given, call, STEPS, **options)
    for step, truth in enumerate(sums(np.asarray(averaged["params"]["dense"]["kernel"]))):
        np.testing.assert_allclose(recorded.value("", step=step), truth, **ROUNDING)
    assert recorded.capture.notes == ()
    np.testing.assert_array_equal(given["cache"]["rows"], np.zeros(4))


def test_a_linen_collection_that_the_first_step_makes(record, averaged):
    def call(variables, x):
        result, changed = Averaged().apply(variables, x, mutable=["cache"])
        variables.update(changed)
        return result, changed

    given = {"params": averaged["params"]}
    recorded = record(given, call, STEPS)
    for step, truth in enumerate(sums(np.asarray(averaged["params"]["dense"]["kernel"]))):
        np.testing.assert_allclose(recorded.value("", step=step), truth, **ROUNDING)
    assert list(given) == ["params"]
    assert recorded.capture.notes == ()


def test_a_collection_that_nobody_stores_is_noted(record, averaged):
    def call(variables, x):
        return Averaged().apply(variables, x, mutable=["cache"])

    recorded = record(averaged, call, STEPS)
    (note,) = recorded.capture.notes
    assert note.startswith("state: the call returns a changed 'cache' and does not store it in the")
    assert record(averaged, call, STEPS[:1]).capture.notes == ()
    made = record({"params": averaged["params"]}, call, STEPS)
    assert made.capture.notes == recorded.capture.notes


def test_a_cache_that_is_passed_on_by_hand_is_carried_without_a_note(record, averaged):
    def call(variables, x, cache):
        return Averaged().apply({**variables, "cache": cache}, x, mutable=["cache"])

    left = iter(XS)

    def feed(result):
        x = next(left, None)
        cache = averaged["cache"] if result is None else result[1]["cache"]
        return None if x is None else {"x": x, "cache": cache}

    recorded = record(averaged, call, feed)
    for step, truth in enumerate(sums(np.asarray(averaged["params"]["dense"]["kernel"]))):
        np.testing.assert_allclose(recorded.value("", step=step), truth, **ROUNDING)
    assert recorded.capture.notes == ()


def haiku_model():
    def forward(x):
        h = hk.Linear(4, name="linear")(x)
        rows = hk.get_state("rows", (4,), init=jnp.zeros) + h.sum(0)
        hk.set_state("rows", rows)
        return rows

    return hk.without_apply_rng(hk.transform_with_state(forward))


def test_haiku_state_is_carried_where_it_is_stored_and_noted_where_it_is_not(record):
    forward = haiku_model()
    params, state = forward.init(jax.random.key(0), jnp.zeros((2, 4)))
    given = {"params": params, "state": state}

    def stored(model, x):
        result, model["state"] = forward.apply(model["params"], model["state"], x)
        return result

    recorded = record(given, stored, STEPS)
    for step, truth in enumerate(sums(np.asarray(params["linear"]["w"]))):
        np.testing.assert_allclose(recorded.value("", step=step), truth, **ROUNDING)
    assert recorded.capture.notes == ()
    dropped = record((params, state), lambda m, x: forward.apply(*m, x), STEPS)
    (note,) = dropped.capture.notes
    assert note.startswith("state: the call returns a changed '1'")


def equinox_model():
    class Model(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __call__(self, x, state):
            return self.norm(self.linear(x), state)

    def make():
        key = jax.random.key(0)
        norm = eqx.nn.BatchNorm(4, axis_name="rows", momentum=0.5, mode="batch")
        return Model(eqx.nn.Linear(4, 4, key=key), norm)

    return eqx.nn.make_with_state(make)()


def by_rows(model, x, state):
    return jax.vmap(model, axis_name="rows", in_axes=(0, None), out_axes=(0, None))(x, state)


def test_equinox_state_that_is_passed_on_by_hand(record):
    model, state = equinox_model()
    left = iter(XS)

    def feed(result):
        x = next(left, None)
        return None if x is None else {"x": x, "state": state if result is None else result[1]}

    recorded = record(model, by_rows, feed)
    for step, x in enumerate(XS):
        truth, state = by_rows(model, x, state)
        np.testing.assert_allclose(recorded.value("", leaf="0", step=step), truth, **ROUNDING)
    assert recorded.capture.notes == ()


@pytest.mark.parametrize("options", WAYS[:2], ids=str)
def test_equinox_state_that_the_call_stores(record, options):
    model, state = equinox_model()
    inference = eqx.nn.inference_mode(model)

    def call(m, x):
        result, m["state"] = by_rows(m["model"], x, m["state"])
        return result, by_rows(m["still"], x, m["state"])[0]

    given = {"model": model, "still": inference, "state": state}
    recorded = record(given, call, STEPS, **options)
    for step, x in enumerate(XS):
        truth, state = by_rows(model, x, state)
        np.testing.assert_allclose(recorded.value("", leaf="0", step=step), truth, **ROUNDING)
        truth = by_rows(inference, x, state)[0]
        np.testing.assert_allclose(recorded.value("", leaf="1", step=step), truth, **ROUNDING)
    assert recorded.capture.notes == ()


def test_equinox_state_that_nobody_passes_on_is_noted(record):
    def call(m, x):
        return by_rows(m[0], x, m[1])

    (note,) = record(equinox_model(), call, STEPS).capture.notes
    assert note.startswith("state: the call returns a changed '1'")


def test_a_change_inside_a_transformation_that_does_not_return_it_is_noted(record):
    def call(model, x):
        def body(row):
            model["count"] = model["count"] + row.sum()
            return row * 2

        return jax.vmap(body)(x) * model["scale"]

    given = {"scale": jnp.float32(2), "count": jnp.float32(0)}

    def harmless(model, x):
        return call({**model}, x)

    assert record(given, harmless, STEPS).capture.notes == ()
    (note,) = record(given, call, STEPS).capture.notes
    assert note.startswith(
        "the model's count was changed inside a transformation (scan, vmap, remat"
    )


class Kept:
    """Something of the user's that is no model."""


@pytest.mark.parametrize("kind", ["list", "dict", "object"])
def test_values_that_the_call_keeps_elsewhere_are_noted(record, kind):
    store = {"list": [], "dict": {}, "object": Kept()}[kind]

    def keep(value):
        if kind == "list":
            store.append(value)
        elif kind == "dict":
            store["rows"] = value
        else:
            store.rows = value

    def call(model, x):
        keep(x * model["scale"])
        return x * 2

    (note,) = record({"scale": jnp.float32(2)}, call, STEPS[:2]).capture.notes
    assert note.startswith("the call keeps values in 'store', outside of its model")


@pytest.mark.parametrize("lift", [lambda f: f, nnx.jit, nnx.remat], ids=["plain", "jit", "remat"])
def test_what_a_call_does_not_change_is_no_output(lift):
    """`nnx.jit` and `nnx.remat` return every array of the module again, changed or not."""

    def outputs(model):
        recording = Recording(model, lambda m, x: lift(lambda m, x: m(x))(m, x), lambda _e: None)
        program, _ = recording._program(recording._tracing.given(STEPS[0]))
        return len(program.jaxpr.jaxpr.outvars)

    assert outputs(nnx.Linear(4, 4, rngs=nnx.Rngs(0))) == 1
    assert outputs(Mean(nnx.Rngs(0))) == 1 + 2 + 2 + 1  # rows, their count, mean, variance, noise


class Decoder(nnx.Module):
    """A language model that keeps the sum of all tokens so far, and their number, in itself."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 4, rngs=rngs)
        self.mix = nnx.Linear(4, 4, rngs=rngs)
        self.past = nnx.Cache(jnp.zeros((2, 4)))
        self.count = nnx.Cache(jnp.int32(0))

    def __call__(self, ids):
        h = self.mix(self.embed(ids))
        self.past[...] = self.past[...] + h.sum(1)
        self.count[...] = self.count[...] + ids.shape[1]
        return self.embed.attend(h + (self.past[...] / self.count[...])[:, None])


@pytest.mark.parametrize("options", [{}, {"stream": True}, {"passes": 2}], ids=str)
def test_decoding_with_a_cache_inside_the_model(tmp_path, options):
    """`capture --steps`: each step's values, and the tokens chosen, are those of a plain decode loop."""
    subject = firstdiff.Subject(
        model=Decoder(nnx.Rngs(0)),
        call=lambda m, input_ids: m(input_ids),
        step=lambda m, _cache, input_ids: (m(input_ids), None),
    )
    ids = np.array([[1, 4, 9], [2, 2, 7]], np.int32)
    path = tmp_path / "a.h5"
    firstdiff.capture(subject, path, inputs={"input_ids": ids}, steps=3, **options)
    plain, given = Decoder(nnx.Rngs(0)), jnp.asarray(ids)
    with open_trace(path) as trace:
        found = {(a.key.path, a.key.method, a.key.step): a for a in trace.activations}
        for step in range(4):
            mixed = np.asarray(plain.mix(plain.embed(given)))
            logits = np.asarray(plain(given))
            value = trace.values(found["mix", "__call__", step])
            np.testing.assert_allclose(value, mixed, **ROUNDING)
            value = trace.values(found["embed", "attend", step])
            np.testing.assert_allclose(value, logits, **ROUNDING)
            given = jnp.asarray(logits[:, -1:].argmax(-1))
        assert trace.header.notes == ()
    assert int(subject.model.count[...]) == 0
