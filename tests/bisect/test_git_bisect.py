"""`git bisect run firstdiff check ... --git-bisect` finds the commit that broke a port, in a real repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from firstdiff.recording import record

FIRSTDIFF = [sys.executable, "-c", "from firstdiff.cli import main; main()"]
MODEL = """
import numpy as np
import firstdiff
WEIGHT = np.arange(12.0, dtype=np.float32).reshape(4, 3) / 7 - 0.5
"""
RIGHT = """
def build():
    def model(weights, x):
        return firstdiff.tap("out", firstdiff.tap("hidden", x @ weights.T) * 2.0)
    return firstdiff.Subject(model=WEIGHT, call=model)
"""
WRONG = RIGHT.replace("* 2.0", "* 2.5")
UNIMPORTABLE = "import no_such_package_of_mine\n"
HISTORY = [
    ("the port", MODEL + RIGHT),
    ("a comment", MODEL + "# a comment\n" + RIGHT),
    ("half a refactoring", UNIMPORTABLE + MODEL + RIGHT),
    ("leaves at once", "raise SystemExit(1)\n" + MODEL + RIGHT),
    ("whole again", MODEL + "# whole again\n" + RIGHT),
    ("faster", MODEL + WRONG),
    ("tidied", MODEL + "# tidied\n" + WRONG),
]


class Doubled(torch.nn.Module):
    """The reference: x @ W.T, doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(3, 4, bias=False)
        self.hidden.weight.data = torch.arange(12.0).reshape(4, 3) / 7 - 0.5
        self.out = Twice()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(x))


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "ref.h5"
    record(Doubled().eval(), path, inputs={"x": torch.randn(2, 3)}, floor=(), verify=False)
    return path


def git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A"}
    environment = {
        **os.environ,
        **identity,
        "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    for message, text in HISTORY:
        (tmp_path / "port.py").write_text(text)
        git(tmp_path, "add", "port.py")
        git(tmp_path, "commit", "-q", "-m", message)
    return tmp_path


def check(reference: Path, subject: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [*FIRSTDIFF, "check", str(reference), subject, "--git-bisect"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_git_bisect_names_the_commit(repository: Path, doubled: Path) -> None:
    first = git(repository, "rev-list", "--max-parents=0", "HEAD").strip()
    git(repository, "bisect", "start", "HEAD", first)
    run = [
        *FIRSTDIFF,
        "check",
        str(doubled),
        "port.py:build",
        "--git-bisect",
    ]
    done = subprocess.run(
        ["git", "bisect", "run", *run], cwd=repository, capture_output=True, text=True
    )
    log = git(repository, "bisect", "log")
    bad = git(repository, "show", "-s", "--format=%s", "refs/bisect/bad").strip()
    assert bad == "faster", done.stdout + done.stderr + log
    assert "good" in log


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (MODEL + RIGHT, 0, ""),
        (MODEL + WRONG, 1, ""),
        (UNIMPORTABLE, 125, "skipped: port.py: importing it raised ModuleNotFoundError"),
        ("raise SystemExit(1)\n", 125, "skipped: the port left with exit code 1"),
    ],
)
def test_exit_codes(text: str, code: int, said: str, doubled: Path, tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(text)
    done = check(doubled, "port.py:build", tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr


def test_a_reference_that_cannot_be_read_stops_the_search(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(MODEL + RIGHT)
    (tmp_path / "ref.h5").write_text("no trace")
    done = check(tmp_path / "ref.h5", "port.py:build", tmp_path)
    assert done.returncode == 128
    assert "ref.h5" in done.stderr
