"""Bad input: one clear sentence, exit code 2, nothing lost, no traceback of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import firstdiff
from firstdiff.traces import Header, Key, TraceWriter, open_trace

Cli = Callable[..., Any]


def write_trace(path: Path, ids: list[list[int]] | None = None, names: str = "abc") -> Path:
    """A trace of a few modules."""
    with TraceWriter(path, Header(framework="torch")) as writer:
        if ids is not None:
            writer.write_input("input_ids", np.array(ids), dtype="int64")
        for name in names:
            writer.write(Key(f"layers.0.{name}", "output"), np.ones(3, "f4"), dtype="float32")
        return writer.finish()


def trouble(done: Any, *parts: str) -> None:
    """Exit code 2 and one line that says ``parts``, in order, without a traceback."""
    assert done.code == 2, done
    assert "Traceback" not in done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("firstdiff: ")
    place = 0
    for part in parts:
        assert part in line[place:], (part, line)
        place = line.index(part, place)


def test_a_file_that_is_no_trace(tmp_path: Path, firstdiff_cli: Cli) -> None:
    (tmp_path / "notes.h5").write_text("hello, this is text")
    trouble(firstdiff_cli("show", tmp_path / "notes.h5"), "notes.h5", "not a trace")


def test_an_hdf5_file_of_something_else(tmp_path: Path, firstdiff_cli: Cli) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones(3)
    trouble(
        firstdiff_cli("diff", tmp_path / "other.h5", tmp_path / "other.h5"),
        "other.h5",
        "not a trace",
    )


def test_a_trace_of_a_newer_format(tmp_path: Path, firstdiff_cli: Cli) -> None:
    path = write_trace(tmp_path / "new.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    trouble(firstdiff_cli("show", path), "new.h5", "99", "1", "pgrade")


def test_a_truncated_trace(tmp_path: Path, firstdiff_cli: Cli) -> None:
    path = write_trace(tmp_path / "cut.h5")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    trouble(firstdiff_cli("show", path), "cut.h5", "truncated", "firstdiff recover")


def test_a_trace_that_is_still_being_written(tmp_path: Path, firstdiff_cli: Cli) -> None:
    writer = TraceWriter(tmp_path / "t.h5", Header(framework="torch"))
    writer.write(Key("a", "output"), np.ones(3, "f4"), dtype="float32")
    trouble(
        firstdiff_cli("diff", tmp_path / "t.h5", tmp_path / "t.h5"),
        "t.h5",
        ".part",
        "firstdiff recover",
    )
    writer.close()
    done = firstdiff_cli("recover", tmp_path / "t.h5.part")
    assert (done.code, "1 activations recovered" in done.out) == (0, True), done
    with open_trace(tmp_path / "t.h5") as trace:
        assert [a.key.path for a in trace.activations] == ["a"]


def test_traces_of_different_inputs_are_refused_by_name(tmp_path: Path, firstdiff_cli: Cli) -> None:
    one = write_trace(tmp_path / "one.h5", [[1, 2, 3]])
    two = write_trace(tmp_path / "two.h5", [[1, 5, 3]])
    trouble(firstdiff_cli("diff", one, two), "input_ids")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("1 / 0", ("port.py", "importing it raised ZeroDivisionError")),
        (
            "def build(): raise ValueError('no weights here')",
            ("raised ValueError: no weights here",),
        ),
        ("def build(): return 3", ("returned an int, not a firstdiff.Subject", "end it with")),
    ],
)
def test_a_subject_file_that_fails(
    tmp_path: Path, firstdiff_cli: Cli, body: str, parts: tuple[str, ...]
) -> None:
    (tmp_path / "port.py").write_text(body)
    done = firstdiff_cli(
        "capture", f"{tmp_path}/port.py:build", "-o", tmp_path / "t.h5", "--input-ids", "1,2"
    )
    assert done.code == 2
    first, *rest = done.err.strip().splitlines()
    assert all(part in first for part in parts), first
    if "raised" in first:
        assert rest[0].startswith("Traceback"), "the user's own traceback follows our line"
        assert rest[-1].split(":")[0] in ("ZeroDivisionError", "ValueError")
    assert not list(tmp_path.glob("*.h5*"))


def test_a_call_that_fails(tmp_path: Path, firstdiff_cli: Cli) -> None:
    (tmp_path / "port_shape.py").write_text(
        "import firstdiff, jax.numpy as jnp\n"
        "def build(): return firstdiff.Subject({'w': jnp.ones((3, 4))}, lambda m, x: x @ m['w'])\n"
    )
    np.savez(tmp_path / "in.npz", x=np.ones((2, 5), np.float32))
    spec = f"{tmp_path}/port_shape.py:build"
    done = firstdiff_cli("capture", spec, "-o", tmp_path / "t.h5", "--inputs", tmp_path / "in.npz")
    assert done.code == 2
    assert done.err.splitlines()[0].startswith("firstdiff: ")
    assert "TypeError" in done.err.splitlines()[0]
    assert "port_shape.py" in done.err, "the user's own traceback names the line"
    assert "site-packages" not in done.err, "and nobody else's"


def test_a_call_without_an_input_that_matters(tmp_path: Path, firstdiff_cli: Cli) -> None:
    (tmp_path / "port_mask.py").write_text(
        "import firstdiff, jax.numpy as jnp\n"
        "def build(): return firstdiff.Subject({'w': jnp.ones((9,))}, lambda m, input_ids: m['w'][input_ids])\n"
    )
    np.savez(tmp_path / "in.npz", input_ids=[[1, 2]], attention_mask=[[0, 1]])
    spec = f"{tmp_path}/port_mask.py:build"
    done = firstdiff_cli("capture", spec, "-o", tmp_path / "t.h5", "--inputs", tmp_path / "in.npz")
    trouble(done, "port_mask.py", "takes no 'attention_mask'", "add the parameter attention_mask")


def test_a_folder_without_weights(tmp_path: Path, checkpoint: Path, firstdiff_cli: Cli) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    done = firstdiff_cli("capture", f"hf:{tmp_path}", "-o", tmp_path / "t.h5", "--input-ids", "1,2")
    trouble(done, str(tmp_path), "weights")


def test_a_dtype_that_is_none(checkpoint: Path, tmp_path: Path, firstdiff_cli: Cli) -> None:
    done = firstdiff_cli(
        "capture",
        f"hf:{checkpoint}",
        "-o",
        tmp_path / "t.h5",
        "--input-ids",
        "1,2",
        "--dtype",
        "float23",
    )
    trouble(done, "float23", "float32")


def test_an_output_that_exists(tmp_path: Path, checkpoint: Path, firstdiff_cli: Cli) -> None:
    path = write_trace(tmp_path / "t.h5")
    before = path.read_bytes()
    done = firstdiff_cli("capture", f"hf:{checkpoint}", "-o", path, "--input-ids", "1,2")
    trouble(done, "t.h5", "exists", "--force")
    assert path.read_bytes() == before


def test_a_selection_that_matches_nothing(
    tmp_path: Path, checkpoint: Path, firstdiff_cli: Cli
) -> None:
    done = firstdiff_cli(
        "capture",
        f"hf:{checkpoint}",
        "-o",
        tmp_path / "t.h5",
        "--input-ids",
        "1,2",
        "--select",
        "*.attention.*",
    )
    trouble(done, "*.attention.*")
    assert not (tmp_path / "t.h5").exists()


def test_a_glob_that_matches_nothing(tmp_path: Path, firstdiff_cli: Cli) -> None:
    path = write_trace(tmp_path / "t.h5")
    trouble(
        firstdiff_cli("show", path, "*.mlp"),
        "t.h5",
        "no activation matches '*.mlp' among 3",
        "layers.0.b",
    )


@pytest.mark.parametrize("arguments", [["shoe"], ["diff", "one.h5"], ["capture", "hf:x"]])
def test_usage_errors_are_trouble_too(firstdiff_cli: Cli, arguments: list[str]) -> None:
    assert firstdiff_cli(*arguments).code == 2


SLOW_PORT = """
import time, firstdiff, numpy as np, torch

class Slow(torch.nn.Module):
    def forward(self, x):
        print("layer", flush=True)
        time.sleep(SLEEP)
        return torch.cat([x, x]) if GROW else x + 1

def build():
    model = torch.nn.Sequential(*[Slow() for _ in range(40)])
    return firstdiff.Subject(model, lambda model, x: model(x))
"""


def start(
    tmp_path: Path, sleep: float, grow: bool, limit: int | None = None
) -> subprocess.Popen[str]:
    """`firstdiff capture` of a model that prints a line a layer, in a process of its own."""
    text = SLOW_PORT.replace("SLEEP", str(sleep)).replace("GROW", str(grow))
    (tmp_path / "slow.py").write_text(textwrap.dedent(text))
    np.savez(tmp_path / "in.npz", x=np.ones((1, 4096), np.float32))

    # A shell that starts the suite in the background has Ctrl-C ignored, and children inherit that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; from firstdiff.cli import main; main()"
    if limit is not None:
        ignore = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
        bound = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        program = f"import resource, signal; {ignore}; {bound}; {program}"
    arguments = ["capture", "slow.py:build", "-o", "t.h5", "--inputs", "in.npz", "--no-floor"]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--no-verify"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    process = start(tmp_path, sleep=0.2, grow=False)
    assert process.stdout is not None
    for _ in range(4):
        assert process.stdout.readline() == "layer\n"
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "interrupted; what was recorded until then is kept: firstdiff recover t.h5.part" in err
    assert "Traceback" not in err
    recovered = firstdiff.recover(tmp_path / "t.h5.part")
    with open_trace(recovered) as trace:
        outputs = [a for a in trace.activations if a.key.site == "output"]
        assert len(outputs) >= 3
        for index, activation in enumerate(outputs):
            np.testing.assert_array_equal(trace.values(activation), np.full((1, 4096), index + 2.0))


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    process = start(tmp_path, sleep=0, grow=True, limit=8 << 20)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    (line,) = err.strip().splitlines()
    assert "t.h5.part" in line
    assert "firstdiff recover t.h5.part" in line
    with open_trace(firstdiff.recover(tmp_path / "t.h5.part")) as trace:
        outputs = [a for a in trace.activations if a.key.site == "output"]
        assert len(outputs) >= 5
        assert all((trace.values(a) == 1).all() for a in trace.activations)


def test_a_linen_module_in_place_of_its_parameters(tmp_path: Path, firstdiff_cli: Cli) -> None:
    (tmp_path / "port_module.py").write_text(
        "import firstdiff, flax.linen as nn\n"
        "def build(): return firstdiff.Subject(nn.Dense(3), lambda model, x: x)\n"
    )
    np.savez(tmp_path / "in.npz", x=np.ones((2, 5), np.float32))
    spec = f"{tmp_path}/port_module.py:build"
    done = firstdiff_cli("capture", spec, "-o", tmp_path / "t.h5", "--inputs", tmp_path / "in.npz")
    trouble(done, "port_module.py", "is a linen module", "give the parameter tree as model")


def test_an_input_that_the_call_needs_and_nobody_gives(tmp_path: Path, firstdiff_cli: Cli) -> None:
    (tmp_path / "port_types.py").write_text(
        "import firstdiff, jax.numpy as jnp\n"
        "def call(m, input_ids, attention_mask, types): return m['w'][input_ids] * attention_mask\n"
        "def build(): return firstdiff.Subject({'w': jnp.ones((9,))}, call)\n"
        "def fewer():\n"
        "    return firstdiff.Subject({'w': jnp.ones(9)}, lambda m, input_ids, attention_mask: attention_mask)\n"
    )
    spec = f"{tmp_path}/port_types.py:"
    done = firstdiff_cli("capture", f"{spec}build", "-o", tmp_path / "t.h5", "--input-ids", "1,2")
    trouble(done, "port_types.py", "needs 'types'", "input_ids alone", "give types a default")
    done = firstdiff_cli("capture", f"{spec}fewer", "-o", tmp_path / "t.h5", "--input-ids", "1,2")
    assert done.code == 0, done.err
    assert "attention_mask was passed as ones" in done.out
