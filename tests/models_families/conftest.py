"""Tiny checkpoints of each family, and Hugging Face's run of them, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

import firstdiff
from firstdiff.models.family_checkpoint import write_family

Made = tuple[Path, Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """``made(family)``: (checkpoint folder, trace of the reference with its float32 floor)."""

    @functools.cache
    def make(family: str) -> Made:
        home = tmp_path_factory.mktemp(family)
        folder = write_family(family, home / "checkpoint")
        firstdiff.capture(f"hf:{folder}", str(home / "reference.h5"), floor=("float32",))
        return folder, home / "reference.h5"

    return make
