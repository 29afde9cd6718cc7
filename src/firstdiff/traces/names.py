"""Names: of keys, for people, and of datasets, made from keys so that h5py users find activations by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from firstdiff.traces.schema import Key

ROOT = "(root)"
"""Stands for the root module's empty path."""

_ESCAPES = str.maketrans({"%": "%25", "/": "%2F", ";": "%3B", "\0": "%00"})


def part_of(path: Path) -> Path:
    """The name under which the trace ``path`` is written before it is complete."""
    return path.with_name(path.name + ".part")


def describe(key: Key) -> str:
    """A key for people: `layers.0.mlp output logits (method attend, call 1, step 2)`."""
    told = (
        f"method {key.method}" if key.method not in ("forward", "__call__") else "",
        f"call {key.call}" if key.call else "",
        f"step {key.step}" if key.step else "",
    )
    extra = ", ".join(filter(None, told))
    words = (key.path or ROOT, key.site, key.leaf, f"({extra})" if extra else "")
    return " ".join(filter(None, words))


def activation_name(key: Key, default_method: str) -> str:
    """HDF5 path of an activation's own dataset: `/activations/<path>/<site>[.leaf][;method=][;call=][;step=]`.

    The method is left out where it is the framework's usual one, call and step where they are 0. In path, leaf
    and method `%`, `/` and `;` are written `%25`, `%2F` and `%3B`: keys that differ have names that differ.
    """
    name = key.site + (f".{escape(key.leaf)}" if key.leaf else "")
    if key.method != default_method:
        name += f";method={escape(key.method)}"
    if key.call:
        name += f";call={key.call}"
    if key.step:
        name += f";step={key.step}"
    return f"/activations/{_component(key.path)}/{name}"


def input_name(name: str) -> str:
    """HDF5 path of a model input."""
    return f"/inputs/{_component(name)}"


def parameter_name(name: str) -> str:
    """HDF5 path of a parameter of the model."""
    return f"/parameters/{_component(name)}"


def table_name(name: str) -> str:
    """HDF5 path of a table; a `/` in its name makes a group, as in `floor/free/bfloat16`."""
    return "/tables/" + "/".join(_component(part) for part in name.split("/"))


def escape(text: str) -> str:
    """``text`` without the characters that separate parts of a name."""
    return text.translate(_ESCAPES)


def _component(text: str) -> str:
    if not text:
        return ROOT
    # HDF5 reads a lone "." as the group itself.
    return {".": "%2E", ROOT: "%28root)"}.get(text) or escape(text)
