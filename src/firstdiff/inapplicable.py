"""Why a self-check does not apply. Apart, because every file of checks raises it."""

from __future__ import annotations


class NotApplicable(Exception):
    """The check says nothing about this subject; the message is the reason."""
