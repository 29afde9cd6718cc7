"""Functions and equations inside the modules of a JAX model, through scan, vmap, jit and remat."""

from __future__ import annotations

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import SubjectError
from firstdiff.traces.schema import Key

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def doubled(x, times=2.0):
    """A function of the model's own file."""
    return x * times


@jax.jit
def shifted(x):
    """A jitted one, which JAX traces once for several callers."""
    return doubled(x) + 1.0


class Layer(nn.Module):
    """Calls functions of this file."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="dense")(x)
        return shifted(doubled(x, times=3.0))


class Stack(nn.Module):
    """Two layers, one after the other or scanned."""

    scanned: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer) if self.remat else Layer
        if not self.scanned:
            for number in range(2):
                x = layer(name=f"layers_{number}")(x)
            return x
        body = nn.scan(
            lambda module, x, _: (module(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        return body(layer(name="layers"), x, None)[0]


def parameters(scanned=False):
    random = np.random.default_rng(0)
    kernels = random.normal(size=(2, 4, 4)).astype(np.float32)
    biases = random.normal(size=(2, 4)).astype(np.float32)
    if scanned:
        return {"params": {"layers": {"dense": {"kernel": kernels, "bias": biases}}}}
    return {
        "params": {
            f"layers_{n}": {"dense": {"kernel": kernels[n], "bias": biases[n]}} for n in range(2)
        }
    }


def recorded(model, level, *, tree=None, batched=False, mode="jit", **options):
    def call(params, x):
        run = lambda one: model.apply(params, one)
        return jax.vmap(run)(x) if batched else run(x)

    events = {}
    done = capture_jax(
        parameters(getattr(model, "scanned", False)) if tree is None else tree,
        call,
        {"x": X},
        sink=lambda event: events.update({event.key: event}),
        selection=Selection(level=level, **options),
        framework="linen",
        mode=mode,
        verify=False,
    )
    return done, {key: (event.value.copy(), event) for key, event in events.items()}


def values(events, path, method, site="output"):
    return [
        v
        for k, (v, _) in events.items()
        if (k.path, k.method, k.site) == (path, method, site) and v.ndim
    ]


def test_functions_are_recorded_where_they_ran_with_values_and_lines():
    done, events = recorded(Stack(), "function")
    dense = events[Key("layers_0.dense", "output", "", "__call__")][0]
    outer, inner = values(events, "layers_0", "doubled()")
    assert np.allclose(outer, 3 * dense)
    assert np.allclose(inner, 6 * dense)
    assert np.allclose(values(events, "layers_0", "shifted()")[0], 6 * dense + 1)
    lines = Path(__file__).read_text().splitlines()
    file, _, line = done.functions["doubled()"].rpartition(":")
    assert file == __file__
    assert lines[int(line) - 1].startswith("def doubled")
    event = events[Key("layers_0", "output", "", "doubled()")][1]
    assert event.class_name == "Layer.__call__"
    assert "doubled(x, times=3.0)" in lines[int(event.source.rpartition(":")[2]) - 1]


def test_plain_numbers_among_the_arguments_are_recorded():
    _, events = recorded(Stack(), "function")
    assert events[Key("layers_0", "input", "times", "doubled()")][0] == 3.0


@pytest.mark.parametrize("remat", [False, True])
def test_functions_in_a_scan_are_those_of_the_loop(remat):
    _, loop = recorded(Stack(), "function")
    _, scan = recorded(Stack(scanned=True, remat=remat), "function")
    for number in range(2):
        for method in ("doubled()", "shifted()"):
            one = values(loop, f"layers_{number}", method)
            other = values(scan, f"layers.{number}", method)
            assert len(one) == len(other) > 0
            assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(one, other, strict=True))


def test_vmap_brings_its_axis_to_the_front():
    _, plain = recorded(Stack(), "function")
    _, batched = recorded(Stack(), "function", batched=True)
    for one, other in zip(
        values(plain, "layers_1", "doubled()"),
        values(batched, "layers_1", "doubled()"),
        strict=True,
    ):
        assert one.shape == other.shape
        assert np.allclose(one, other, rtol=1e-6)


def test_every_equation_is_recorded_in_its_module_with_its_line():
    _, events = recorded(Stack(), "op")
    lines = Path(__file__).read_text().splitlines()
    ops = {k: e for k, (_, e) in events.items() if k.level == "op" and k.path == "layers_1"}
    assert [key.method for key in ops] == ["jax::mul", "jax::mul", "jax::add"]
    text = [lines[int(event.source.rpartition(":")[2]) - 1].strip() for event in ops.values()]
    assert text == ["return x * times", "return x * times", "return doubled(x) + 1.0"]
    assert [event.class_name for event in ops.values()] == ["doubled", "doubled", "shifted"]
    assert any(key.method == "jax::dot_general" for key in events if key.path == "layers_0.dense")


def test_equations_in_a_scan_are_those_of_the_loop():
    _, loop = recorded(Stack(), "op")
    _, scan = recorded(Stack(scanned=True), "op")
    for number in range(2):
        one = values(loop, f"layers_{number}", "jax::mul")
        other = values(scan, f"layers.{number}", "jax::mul")
        assert len(one) == len(other) == 2
        assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(one, other, strict=True))


def test_a_library_functions_equations_have_the_line_that_calls_it():
    class Smooth(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = jnp.where(x > 0, x, 0.0)
            return first + jnp.where(x > 0, x, 0.0)

    _, events = recorded(Smooth(), "op", tree={"params": {"none": np.zeros(1, np.float32)}})
    sources = [e.source for k, (_, e) in events.items() if k.method == "jax::select_n"]
    assert len(set(sources)) == 2


def test_modules_are_recorded_as_without_a_level():
    _, plain = recorded(Stack(scanned=True), "module")
    _, deep = recorded(Stack(scanned=True), "op")
    assert [k for k in deep if k.level == "module"] == list(plain)


def test_only_chosen_modules_are_looked_into():
    _, events = recorded(Stack(), "op", inside=("layers_1",))
    assert {key.path for key in events if key.level != "module"} == {"layers_1"}
    assert Key("layers_0", "output", "", "__call__") in events


def test_values_can_be_planted_around_functions():
    _, free = recorded(Stack(), "function")
    key = Key("layers_0.dense", "output", "", "__call__")
    given = np.full_like(free[key][0], 0.5)
    events = {}
    capture_jax(
        parameters(),
        lambda params, x: Stack().apply(params, x),
        {"x": X},
        sink=lambda event: events.update({event.key: event.value.copy()}),
        selection=Selection(level="function"),
        framework="linen",
        verify=False,
        values={key: given},
    )
    assert np.allclose(events[Key("layers_0", "output", "", "shifted()")], 6 * given + 1)


def test_no_profiler_is_left_after_an_error():
    class Failing(nn.Module):
        def __call__(self, x):
            return self.fail(x)

        @nn.nowrap
        def fail(self, x):
            raise ValueError(f"no {x.shape}")

    with pytest.raises(SubjectError):
        recorded(Failing(), "op", tree={"params": {"none": np.zeros(1, np.float32)}})
    assert sys.getprofile() is None
