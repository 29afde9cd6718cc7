"""The examples run as their docstrings say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_port_plugged_in(tmp_path: Path, firstdiff_cli: Callable[..., Any]) -> None:
    file, reference = EXAMPLES / "check_me.py", tmp_path / "ref.h5"
    assert firstdiff_cli("capture", f"{file}:reference", "-o", reference).code == 0
    right = firstdiff_cli("check", reference, f"{file}:port")
    assert right.code == 0
    assert "The port agrees with the reference" in right.out
    wrong = firstdiff_cli("check", reference, f"{file}:wrong_port")
    assert wrong.code == 1
    assert "after layers.0 (agrees), before layers.1 (its input differs)" in " ".join(
        wrong.out.split()
    )
    assert "Likely cause: activation function. Applying GELU by tanh instead of GELU" in " ".join(
        wrong.out.split()
    )
