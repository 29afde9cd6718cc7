"""What a command says while it works."""

from __future__ import annotations

import io
import sys

import pytest

from firstdiff.cli.output import progress


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        return True


def test_a_sentence_stays_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    with progress() as step:
        step("running the model under hooks")
        step("noise floors: 5 more runs of the model: about 10 times a forward pass, 20 s.")
        step("noise floors, run 1 of 5")
    lines = [line.strip() for line in screen.getvalue().splitlines()]
    assert "noise floors: 5 more runs of the model: about 10 times a forward pass, 20 s." in lines


def test_nothing_is_said_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress() as step:
        step("noise floors: a sentence.")
    assert screen.getvalue() == ""
