"""`firstdiff capture` with the options that say how a JAX model is run: what it writes and what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firstdiff.traces import Trace, open_trace

PORT = '''
import jax
import jax.numpy as jnp
import numpy as np

import firstdiff


def weights(dtype=jnp.float32):
    drawn = np.random.default_rng(0).normal(size=(3, 8, 8), scale=0.4)
    return {"layers": jnp.asarray(drawn, dtype), "head": jnp.asarray(drawn[0] + 1, dtype)}


def call(model, x):
    """Layers under a scan, a loop of unknown length, a head."""
    def layer(x, w):
        return firstdiff.tap("layers", jnp.tanh(x @ w) + x), None

    def grow(x):
        return firstdiff.tap("grow", x * 1.5)

    x = jax.lax.scan(layer, x, model["layers"])[0]
    x = jax.lax.while_loop(lambda x: jnp.abs(x).max() < 40, grow, x)
    return firstdiff.tap("head", x @ model["head"])


def build():
    x = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    return firstdiff.Subject(model=weights(), call=call, inputs={"x": x})


def chain(model, x):
    """Sums in bfloat16, which a compiler likes to keep in float32 from one to the next."""
    x = firstdiff.tap("scaled", x * model["head"][0] + model["head"][1])
    return firstdiff.tap("sum", (x * x + x) * model["head"][2] + x)


def narrow():
    x = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    made = weights(jnp.bfloat16)
    return firstdiff.Subject(model=made, call=lambda m, x: chain(m, x.astype(jnp.bfloat16)), inputs={"x": x})
'''


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "port.py"
    path.write_text(PORT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def computed() -> dict[tuple[str, int], np.ndarray]:
    """What numpy computes in float64, by (path, call): the loop in full."""
    drawn = np.random.default_rng(0).normal(size=(3, 8, 8), scale=0.4)
    x = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32).astype(np.float64)
    found = {}
    for index, w in enumerate(drawn):
        x = found[f"layers.{index}", 0] = np.tanh(x @ w) + x
    trips = 0
    while np.abs(x).max() < 40:
        x = found["grow", trips] = x * 1.5
        trips += 1
    found["head", 0] = x @ (drawn[0] + 1)
    assert trips > 3
    return found


def values(trace: Trace) -> dict[tuple[str, int], np.ndarray]:
    return {(a.key.path, a.key.call): trace.values(a) for a in trace.activations if a.key.path}


def check(path: Path, computed, grown: dict[int, int]) -> None:
    """The trace holds everything, of the loop the iterations ``grown``: call index to trip."""
    truth = {key: value for key, value in computed.items() if key[0] != "grow"}
    truth |= {("grow", call): computed["grow", trip] for call, trip in grown.items()}
    with open_trace(path) as trace:
        found = values(trace)
    assert found.keys() == truth.keys()
    for key, value in found.items():
        assert np.linalg.norm(value - truth[key]) < 2e-6 * np.linalg.norm(truth[key]), key


def last(computed) -> dict[int, int]:
    return {0: max(call for path, call in computed if path == "grow")}


@pytest.mark.parametrize("options", [[], ["--stream"], ["--passes", "3"], ["--eager"]], ids=str)
def test_values_are_those_that_numpy_computes(firstdiff_cli, tmp_path, port, computed, options):
    done = firstdiff_cli("capture", f"{port}:build", "-o", tmp_path / "a.h5", *options)
    assert done.code == 0, done.err
    mode = "eager" if options == ["--eager"] else "jit"
    head, *rest = done.out.splitlines()
    assert head.startswith(f"{tmp_path / 'a.h5'}  dict · jax float32 · {mode} · 7 activations · ")
    assert rest == ["tracing did not change the output"]
    check(tmp_path / "a.h5", computed, last(computed))
    assert not (tmp_path / "a.h5.part").exists()


@pytest.mark.parametrize("how", [[], ["--stream"], ["--passes", "4"]], ids=str)
def test_the_first_iterations_of_a_loop(firstdiff_cli, tmp_path, port, computed, how):
    options = ["--max-iterations", "2", *how]
    done = firstdiff_cli("capture", f"{port}:build", "-o", tmp_path / "a.h5", *options)
    assert done.code == 0, done.err
    assert " · 8 activations · " in done.out
    check(tmp_path / "a.h5", computed, {0: 0, 1: 1})


def test_exact_gives_the_bits_of_operation_by_operation(firstdiff_cli, tmp_path, port):
    stored = {}
    for option in ("--exact", "--eager"):
        path = tmp_path / f"{option[2:]}.h5"
        done = firstdiff_cli("capture", f"{port}:narrow", "-o", path, option)
        assert done.code == 0, done.err
        assert "jax bfloat16" in done.out
        with open_trace(path) as trace:
            assert trace.header.mode == ("jit" if option == "--exact" else "eager")
            assert trace.header.precision["excess_precision"] is False
            stored[option] = [trace.stored(a) for a in trace.activations if a.key.path]
    for exact, eager in zip(*stored.values(), strict=True):
        np.testing.assert_array_equal(exact, eager)


def test_excess_precision_is_said_where_it_is_allowed(firstdiff_cli, tmp_path, port):
    assert firstdiff_cli("capture", f"{port}:narrow", "-o", tmp_path / "a.h5").code == 0
    with open_trace(tmp_path / "a.h5") as trace:
        assert trace.header.precision["excess_precision"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stream", "--passes", "2"], "stream and passes exclude each other"),
        (["--passes", "0"], "passes is 0; it is at least 1"),
        (["--max-iterations", "0"], "max_iterations is 0; it is at least 1"),
    ],
    ids=str,
)
def test_impossible_options_leave_nothing_behind(firstdiff_cli, tmp_path, port, options, message):
    done = firstdiff_cli("capture", f"{port}:build", "-o", tmp_path / "a.h5", *options)
    assert done.code == 2
    assert message in done.err + done.out
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_streams_and_says_what_it_wrote(tmp_path, port, computed):
    """The callbacks of a stream run in threads of JAX, which end with the process."""
    program = "from firstdiff.cli import main; main()"
    command = ["capture", f"{port}:build", "-o", str(tmp_path / "a.h5"), "--stream"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "7 activations" in done.stdout
    assert "tracing did not change the output" in done.stdout
    check(tmp_path / "a.h5", computed, last(computed))
