"""The trace file: what it holds, writing it, reading it, rescuing it. Ground floor: numpy and h5py alone."""

from __future__ import annotations

from firstdiff.traces.checksum import checksum
from firstdiff.traces.digest import digest
from firstdiff.traces.dtypes import storage, unit_roundoff, widen
from firstdiff.traces.errors import (
    CaptureError,
    FirstdiffError,
    InputMismatch,
    OptionError,
    SubjectError,
    TraceError,
)
from firstdiff.traces.names import describe
from firstdiff.traces.reader import Input, Trace, open_trace
from firstdiff.traces.recover import recover
from firstdiff.traces.schema import (
    FORMAT_VERSION,
    Activation,
    Axis,
    Digest,
    Header,
    Key,
    Place,
    Site,
)
from firstdiff.traces.writer import TraceWriter

__all__ = [
    "FORMAT_VERSION",
    "Activation",
    "Axis",
    "CaptureError",
    "Digest",
    "FirstdiffError",
    "Header",
    "Input",
    "InputMismatch",
    "Key",
    "OptionError",
    "Place",
    "Site",
    "SubjectError",
    "Trace",
    "TraceError",
    "TraceWriter",
    "checksum",
    "describe",
    "digest",
    "open_trace",
    "recover",
    "storage",
    "unit_roundoff",
    "widen",
]
