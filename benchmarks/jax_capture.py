"""What a capture costs: CPU time of the jitted call with and without it, per framework, and memory.

About 20 million parameters (width 512, 6 layers, 128 tokens): `python benchmarks/jax_capture.py [--framework NAME]`.

The call with all taps and the plain call run in turn, in one process; the ratio is that of the medians of the process's
CPU time, so that a shared machine does not count. Copying to the host and writing the trace are apart. Memory is the
peak of a child process that does one thing only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np

from firstdiff.recorders import event_writer
from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.tracer.jax.emission import Emission
from firstdiff.tracer.jax.recording import Recording
from firstdiff.traces import Header, TraceWriter

WIDTH, HIDDEN, LAYERS, TOKENS, REPEATS = 512, 2688, 6, 128, 9
MEMORY = ("plain", "capture", "passes", "stream")


def linen() -> tuple[Any, Callable[..., Any]]:
    """The stack in linen: variables and a call."""
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            h = nn.gelu(nn.Dense(HIDDEN, name="up")(nn.LayerNorm(name="norm")(x)))
            h = x + nn.Dense(WIDTH, name="down")(h)
            return h + nn.Dense(WIDTH, name="out")(nn.Dense(WIDTH, name="mix")(h))

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for index in range(LAYERS):
                x = Block(name=f"layers_{index}")(x)
            return x

    return Stack().init(jax.random.key(0), tokens()), lambda v, x: Stack().apply(v, x)


def nnx() -> tuple[Any, Callable[..., Any]]:
    """The stack in NNX."""
    from flax import nnx as lib

    class Block(lib.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm = lib.LayerNorm(WIDTH, rngs=rngs)
            self.up = lib.Linear(WIDTH, HIDDEN, rngs=rngs)
            self.down = lib.Linear(HIDDEN, WIDTH, rngs=rngs)
            self.mix = lib.Linear(WIDTH, WIDTH, rngs=rngs)
            self.out = lib.Linear(WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = x + self.down(lib.gelu(self.up(self.norm(x))))
            return h + self.out(self.mix(h))

    class Stack(lib.Module):
        def __init__(self, rngs: Any) -> None:
            self.layers = lib.List([Block(rngs) for _ in range(LAYERS)])

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    return Stack(lib.Rngs(0)), lambda m, x: m(x)


def equinox() -> tuple[Any, Callable[..., Any]]:
    """The stack in Equinox, one token at a time under vmap."""
    import equinox as eqx

    class Block(eqx.Module):
        norm: Any
        up: Any
        down: Any
        mix: Any
        out: Any

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key, 4)
            sizes = ((WIDTH, HIDDEN), (HIDDEN, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH))
            self.norm = eqx.nn.LayerNorm(WIDTH)
            self.up, self.down, self.mix, self.out = (
                eqx.nn.Linear(*size, key=key) for size, key in zip(sizes, keys, strict=True)
            )

        def __call__(self, x: Any) -> Any:
            h = x + self.down(jax.nn.gelu(self.up(self.norm(x))))
            return h + self.out(self.mix(h))

    class Stack(eqx.Module):
        layers: list[Any]

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    stack = Stack([Block(key) for key in jax.random.split(jax.random.key(0), LAYERS)])
    return stack, lambda m, x: jax.vmap(jax.vmap(m))(x)


def haiku() -> tuple[Any, Callable[..., Any]]:
    """The stack in Haiku."""
    import haiku as hk

    def block(x: Any) -> Any:
        norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")
        h = x + hk.Linear(WIDTH, name="down")(jax.nn.gelu(hk.Linear(HIDDEN, name="up")(norm(x))))
        return h + hk.Linear(WIDTH, name="out")(hk.Linear(WIDTH, name="mix")(h))

    def stack(x: Any) -> Any:
        for _ in range(LAYERS):
            x = block(x)
        return x

    forward = hk.without_apply_rng(hk.transform(stack))
    return forward.init(jax.random.key(0), tokens()), lambda p, x: forward.apply(p, x)


def keras() -> tuple[Any, Callable[..., Any]]:
    """The stack in Keras."""
    import keras as lib

    class Block(lib.Layer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.norm = lib.layers.LayerNormalization(name="norm")
            self.up = lib.layers.Dense(HIDDEN, name="up")
            self.down = lib.layers.Dense(WIDTH, name="down")
            self.mix = lib.layers.Dense(WIDTH, name="mix")
            self.out = lib.layers.Dense(WIDTH, name="out")

        def call(self, x: Any) -> Any:
            h = x + self.down(jax.nn.gelu(self.up(self.norm(x))))
            return h + self.out(self.mix(h))

    stack = lib.Sequential([Block(name=f"layers.{index}") for index in range(LAYERS)])
    stack(tokens())
    return stack, lambda m, x: m(x)


def functions() -> tuple[Any, Callable[..., Any]]:
    """The stack in plain functions, its layers scanned."""
    sizes = {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH), "mix": (WIDTH, WIDTH)}
    sizes["out"] = (WIDTH, WIDTH)
    rng = np.random.default_rng(0)
    tree = {
        name: jnp.asarray(rng.normal(size=(LAYERS, *size), scale=0.03).astype(np.float32))
        for name, size in sizes.items()
    }

    def mlp(w: Any, x: Any) -> Any:
        return jax.nn.gelu(x @ w["up"]) @ w["down"]

    def layer(w: Any, x: Any) -> Any:
        h = x + mlp(w, x)
        return h + h @ w["mix"] @ w["out"]

    return tree, lambda w, x: jax.lax.scan(lambda x, w: (layer(w, x), None), x, w)[0]


STACKS = {
    "linen": linen,
    "nnx": nnx,
    "equinox": equinox,
    "haiku": haiku,
    "keras": keras,
    "functions": functions,
}


def tokens() -> Any:
    """float32 [1, TOKENS, WIDTH]."""
    return jax.random.normal(jax.random.key(1), (1, TOKENS, WIDTH))


def measured(framework: str) -> Iterator[str]:
    """Lines of the report: ratios of CPU time."""
    model, call = STACKS[framework]()
    inputs = {"x": tokens()}
    recording = Recording(model, call, lambda _event: None, framework=framework)
    given = recording._tracing.given(inputs)
    program, (run,) = recording._program(given)
    plain = recording._tracing.plain

    def captured() -> None:
        run(given.arrays, {})

    def alone() -> None:
        jax.block_until_ready(plain(given, mode="jit", exact=False))

    with_taps, without = in_turn(captured, alone)
    _outputs, facts, taken = run(given.arrays, {})
    selected = recording._fired(program, facts)
    count = sum(int(array.size) for array in given.model.arrays)
    host = lowest(lambda: Emission(lambda _e: None).give_all(selected, run.wanted, dict(taken)))
    with tempfile.TemporaryDirectory() as folder:
        written = lowest(lambda: write(folder, selected, run.wanted, dict(taken)))
    yield (
        f"{framework:9} {count / 1e6:5.1f}M parameters, {len(selected)} activations: "
        f"call with capture / without {with_taps / without:.3f} ({with_taps * 1e3:.0f} / {without * 1e3:.0f} ms); "
        f"to the host {host / without:.3f}, to the host and written {written / without:.3f} of the plain call"
    )


def write(folder: str, selected: Any, wanted: Any, taken: dict[int, Any]) -> None:
    """Write one trace of ``taken``."""
    with TraceWriter(Path(folder) / "a.h5", Header(framework="jax"), overwrite=True) as writer:
        Emission(event_writer(writer)).give_all(selected, wanted, taken)
        writer.finish()


def in_turn(one: Callable[[], None], other: Callable[[], None]) -> tuple[float, float]:
    """Median CPU seconds of each, run in turn after a warm-up."""
    one()
    other()
    times = [(cpu(one), cpu(other)) for _ in range(REPEATS)]
    return tuple(np.median(times, axis=0))  # type: ignore[return-value]  # two columns


def lowest(work: Callable[[], None]) -> float:
    """Lowest CPU seconds of three runs."""
    return min(cpu(work) for _ in range(3))


def cpu(work: Callable[[], None]) -> float:
    """CPU seconds of this process, all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def memory(framework: str, what: str) -> None:
    """Print this process's resident bytes when the model was made, and its peak in ``what``."""
    model, call = STACKS[framework]()
    inputs = {"x": jnp.tile(tokens(), (16, 1, 1))}
    jax.block_until_ready(model if framework not in ("nnx", "keras") else inputs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    if what == "plain":
        recording = Recording(model, call, lambda _e: None, framework=framework)
        jax.block_until_ready(
            recording._tracing.plain(recording._tracing.given(inputs), mode="jit", exact=False)
        )
    else:
        options = {"passes": 4} if what == "passes" else {"stream": what == "stream"}
        capture_jax(
            model, call, inputs, sink=lambda _e: None, verify=False, framework=framework, **options
        )
    print(json.dumps([before, resident("VmHWM")]))


def resident(field: str) -> int:
    """Resident bytes of this process: `VmRSS` now, `VmHWM` at most. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--framework", choices=STACKS, action="append")
    parser.add_argument("--memory", choices=MEMORY, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    chosen = asked.framework or list(STACKS)
    if asked.memory:
        memory(chosen[0], asked.memory)
        return
    for framework in chosen:
        for line in measured(framework):
            print(line, flush=True)
    for what in MEMORY:
        command = [sys.executable, __file__, "--framework", chosen[0], "--memory", what]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, after = json.loads(done.stdout.splitlines()[-1])
        print(
            f"memory, {chosen[0]}, 16 rows, {what:8}: {(after - before) / 1e6:6.0f} MB above the model"
        )


if __name__ == "__main__":
    main()
