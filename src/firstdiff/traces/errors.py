"""Errors that a user can cause. Apart, on the ground floor, because every room raises them.

A message states the place first, then both sides, then the remedy. The command line prints it as one
line and exits with 2; a traceback is shown for our own bugs only.
"""

from __future__ import annotations


class FirstdiffError(Exception):
    """Base of every error that firstdiff raises on purpose."""


class TraceError(FirstdiffError, ValueError):
    """A file cannot be used as a trace: no trace, truncated, of a newer format, or still being written."""


class InputMismatch(FirstdiffError, ValueError):
    """Two traces were made from different inputs, so a comparison would say nothing."""


class SubjectError(FirstdiffError, RuntimeError):
    """A subject could not be loaded, built or called."""


class CaptureError(FirstdiffError, RuntimeError):
    """A capture recorded nothing, or could not be written."""


class OptionError(FirstdiffError, ValueError):
    """An option has a value that is impossible here."""
