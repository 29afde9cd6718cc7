"""Sharded programs on four host devices: in a process of their own, because the device count is fixed at start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = (
    "auto",
    "explicit",
    "inner",
    "shard_map checked",
    "shard_map unchecked",
    "planted checked",
    "planted unchecked",
    "loops checked",
    "loops unchecked",
    "columns checked",
    "columns unchecked",
)


@pytest.fixture(scope="module")
def reports():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sharded_programs.py"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.splitlines(), run.stderr


@pytest.mark.parametrize("case", CASES)
def test_sharded(reports, case):
    lines, errors = reports
    assert f"passed: {case}" in lines, errors
