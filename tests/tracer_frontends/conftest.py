"""Recording into a dict, for every framework's tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).parent))  # the stacks, which the sharded script imports too

from recording import Recorded, record


@pytest.fixture(name="record")
def _record() -> Callable[..., Recorded]:
    """`record(model, call, inputs, ...)`: one capture; see `recording.record`."""
    return record


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Profilers are as before after every test."""
    before = sys.getprofile()
    yield
    assert sys.getprofile() is before
