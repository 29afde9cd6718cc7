"""Model inputs before any framework has seen them: what the command line says, and what files hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from firstdiff.traces.dtypes import storage
from firstdiff.traces.errors import OptionError, TraceError
from firstdiff.traces.reader import Trace, open_trace


class HostTensor(NamedTuple):
    """One tensor of no framework."""

    value: np.ndarray
    """Storage array: bits where numpy lacks the dtype."""
    dtype: str
    """Logical dtype."""


Inputs = dict[str, HostTensor]


def read_inputs(path: str | Path) -> Inputs:
    """The tensors of a `.npz`, a `.safetensors` or a trace (its model inputs), by name.

    Raises:
        OptionError: the file is missing, of another kind, damaged or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f"--inputs {path}: no such file; give a .npz, a .safetensors or a trace")
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    inputs = readers.get(path.suffix, _read_trace)(path)
    if not inputs:
        raise OptionError(
            f"--inputs {path}: holds no tensor; name one per keyword of the model's call"
        )
    return inputs


def _read_npz(path: Path) -> Inputs:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: HostTensor(*storage(arrays[name])) for name in arrays.files}
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--inputs {path}: not a readable .npz ({error}); write it with numpy.savez"
        ) from error


def _read_safetensors(path: Path) -> Inputs:
    try:
        from safetensors import deserialize
    except ImportError as error:
        raise OptionError(
            f"--inputs {path}: reading it needs safetensors; pip install safetensors"
        ) from error
    names = {
        "BF16": "bfloat16",
        "BOOL": "bool",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
    }
    bits = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}
    kinds = {"F": "float", "I": "int", "U": "uint"}
    inputs: Inputs = {}
    try:
        read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize  # untyped there
        for name, tensor in read(path.read_bytes()):
            code = tensor["dtype"]
            dtype = names.get(code) or kinds[code[0]] + code[1:]
            value = np.frombuffer(tensor["data"], bits.get(dtype, dtype)).reshape(tensor["shape"])
            inputs[name] = HostTensor(value, dtype)
    except (
        Exception
    ) as error:  # the Rust reader raises its own type, and an unknown code a KeyError
        raise OptionError(f"--inputs {path}: not a readable .safetensors ({error})") from error
    return inputs


def _read_trace(path: Path) -> Inputs:
    try:
        with open_trace(path) as trace:
            return trace_inputs(trace)
    except TraceError as error:
        raise OptionError(
            f"--inputs {path}: not a .npz, .safetensors or trace ({error})"
        ) from error


def trace_inputs(trace: Trace) -> Inputs:
    """The model inputs that ``trace`` was recorded with, copied out of the file."""
    return {
        name: HostTensor(np.array(trace.input(name)), given.dtype)
        for name, given in trace.inputs.items()
    }


def host_inputs(inputs: Mapping[str, Any]) -> Inputs:
    """Arrays of numpy, torch or JAX, or nested lists of numbers, as host tensors."""
    return {name: _host_tensor(value) for name, value in inputs.items()}


def _host_tensor(value: Any) -> HostTensor:
    if isinstance(value, HostTensor):
        return value
    if type(value).__module__.split(".")[0] == "torch":
        from firstdiff.tracer.tensors import storage_array

        array, dtype = storage_array(value)
        return HostTensor(array.copy(), dtype)
    return HostTensor(*storage(np.ascontiguousarray(value)))


def parse_input_ids(text: str) -> Inputs:
    """`1,2,3` or rows `1,2,3;4,5,6` as int64[batch, tokens] `input_ids`; JSON lists are taken too.

    Raises:
        OptionError: not integers, or rows of unequal length.
    """
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else _split_rows(text)
        rows = rows if rows and isinstance(rows[0], list) else [rows]
        lengths = sorted({len(row) for row in rows})
        ids = np.array(rows, dtype=np.int64) if len(lengths) == 1 else None
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"--input-ids {text!r}: not integers; write 1,2,3 or 1,2,3;4,5,6"
        ) from error
    if ids is None or ids.size == 0:
        raise OptionError(
            f"--input-ids: rows of {' and '.join(map(str, lengths))} ids; pad them to one length, "
            f"and give the attention_mask with --inputs FILE.npz"
        )
    return {"input_ids": HostTensor(ids, "int64")}


def _split_rows(text: str) -> list[list[int]]:
    return [[int(item) for item in row.split(",")] for row in text.strip().rstrip(";").split(";")]
