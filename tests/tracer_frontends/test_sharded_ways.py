"""Every framework on several devices: captured values against numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stack import FRAMEWORKS, SHARDED_WAYS


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Largest relative L2 error by framework and way, from a process with four devices."""
    script = Path(__file__).parent / "sharded.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("way", SHARDED_WAYS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_values_are_whole_on_several_devices(framework, way, errors):
    assert errors[f"{framework} {way}"] < 2e-6
