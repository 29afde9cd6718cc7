"""Gemma, the model that the port of this folder computes. Importing this imports no framework."""

from __future__ import annotations

from functools import partial

from firstdiff.models import ported

subject = partial(ported.subject, "gemma")
"""``subject(port, folder, *, fault=None, ...)``: see `ported.subject`."""

__all__ = ["subject"]
