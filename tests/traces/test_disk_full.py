"""A disk that fills up: the error says what to do, what was committed can be read and rescued."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.traces import open_trace, recover

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="a limit of file sizes stands in for a full disk"
)

CHILD = """
import resource, signal, sys
import numpy as np
from firstdiff.traces import CaptureError, Header, Key, TraceWriter

path, limit, size, stop = sys.argv[1], *map(int, sys.argv[2:])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with TraceWriter(path, Header("torch")) as writer:
        for number in range(stop):
            writer.write(Key(f"layers.{number}", "output"), np.full(size, number, "f4"), dtype="float32")
        writer.finish()
except CaptureError as error:
    print(error)
"""


def fill(path: Path, limit: int, size: int, stop: int = 1_000_000) -> str:
    """What a child said whose files may have ``limit`` bytes and that writes ``stop`` float32[size]."""
    command = [sys.executable, "-W", "error", "-c", CHILD, str(path)]
    numbers = [str(limit), str(size), str(stop)]
    done = subprocess.run([*command, *numbers], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(("limit", "size"), [(3_000_000, 100_000), (600_000, 500), (200_000, 1)])
def test_full_while_writing(tmp_path: Path, limit: int, size: int) -> None:
    path, part = tmp_path / "t.h5", tmp_path / "t.h5.part"
    message = fill(path, limit, size)
    assert not path.exists()
    with open_trace(part, partial=True) as trace:
        count = len(trace.activations)
        assert count > 3
        for activation in trace.activations:
            assert np.array_equal(trace.stored(activation), np.full(size, activation.order, "f4"))
    assert message == (
        f"{part}: writing layers.{count} output failed (File too large). {count} activations were committed before "
        f"and can be read; make room, then rescue them with `firstdiff recover {part}`."
    )
    with open_trace(recover(part)) as trace:
        assert trace.path == path
        assert len(trace.activations) == count
        assert np.array_equal(trace.stored(trace.activations[-1]), np.full(size, count - 1, "f4"))
        assert trace.header.notes == (
            f"Recovered from t.h5.part, which holds {count} activations. Its capture did not finish: whatever came "
            f"after layers.{count - 1} output is missing.",
        )
    assert not part.exists()


def test_full_while_finishing(tmp_path: Path) -> None:
    part = tmp_path / "t.h5.part"
    message = fill(tmp_path / "t.h5", 150_000, 1, stop=300)
    assert message.startswith(
        f"{part}: writing its end failed (File too large). 300 activations were "
    )
    with open_trace(recover(part)) as trace:
        assert len(trace.activations) == 300


@pytest.mark.parametrize("limit", [500, 3000, 5000])
def test_no_room_to_begin_leaves_nothing(tmp_path: Path, limit: int) -> None:
    part = tmp_path / "t.h5.part"
    message = fill(tmp_path / "t.h5", limit, 1)
    assert (
        message == f"{part} cannot be created (File too large); choose another place, or make room."
    )
    assert list(tmp_path.iterdir()) == []
