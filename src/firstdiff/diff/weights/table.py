"""Fingerprints of parameters as two tables of a trace, and back: what a capture keeps of the weights.

`parameters/digests` has one row a parameter; `parameters/fibres` the hashes of its fibres, one after the other. With
them the audit tells everything but the order inside fibres, which takes elements.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import prod
from os import cpu_count
from typing import TYPE_CHECKING, cast

import numpy as np

from firstdiff.diff.weights.fingerprint import Fingerprint, fingerprint, kept_axes, natural_grain
from firstdiff.diff.weights.grain import FINEST, GRAINS
from firstdiff.diff.weights.match import Side
from firstdiff.traces.parameters import Kind, Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIGESTS = "parameters/digests"
FIBRES = "parameters/fibres"

_TEXTS = ("name", "shape", "dtype", "class_name", "framework", "kind", "aliases", "grain")
_NUMBERS = ("sum", "squares", "min", "max")


def parameter_tables(
    parameters: Sequence[Parameter], *, coarse: bool = True
) -> dict[str, np.ndarray]:
    """Both tables, by name, for `TraceWriter.write_table`. Reads every parameter once, streamed.

    ``coarse`` also hashes float32 weights as bfloat16 would hold them, so that a bfloat16 port can be matched.
    """
    with ThreadPoolExecutor(max_workers=min(4, cpu_count() or 1)) as pool:
        prints = list(pool.map(lambda p: fingerprint(p, _grains(p, coarse)), parameters))
    return {DIGESTS: _digests(parameters, prints), FIBRES: _fibres(parameters, prints)}


def read_tables(table: Callable[[str], np.ndarray | None]) -> Side | None:
    """The parameters that a trace tells of, without their values; None when it tells of none. ``table`` is
    `Trace.table`."""
    digests, fibres = table(DIGESTS), table(FIBRES)
    if digests is None:
        return None
    parameters = tuple(_parameter(row) for row in digests)
    return Side(parameters, tuple(_prints(parameters, digests, fibres)))


def _grains(parameter: Parameter, coarse: bool) -> tuple[str, ...]:
    natural = natural_grain(parameter) or FINEST
    return (natural, "bfloat16") if coarse and natural == FINEST else (natural,)


def _digests(parameters: Sequence[Parameter], prints: Sequence[Fingerprint]) -> np.ndarray:
    texts = [
        (
            p.name,
            ",".join(map(str, p.shape)),
            p.dtype,
            p.class_name,
            p.framework,
            p.kind,
            "\n".join(p.aliases),
            f.grain,
        )
        for p, f in zip(parameters, prints, strict=True)
    ]
    columns = [[text.encode() for text in column] for column in zip(*texts, strict=True)] or [
        [] for _ in _TEXTS
    ]
    widths = [max([len(text) for text in column], default=1) or 1 for column in columns]
    dtype = [(name, f"S{width}") for name, width in zip(_TEXTS, widths, strict=True)]
    dtype += [("count", "<i8"), *((name, "<f8") for name in _NUMBERS)]
    dtype += [(f"hash_{grain}", "<u8") for grain in GRAINS] + [("grains", "<u1")]
    rows = np.zeros(len(parameters), dtype=dtype)
    for name, column in zip(_TEXTS, columns, strict=True):
        rows[name] = column
    for name in ("count", *_NUMBERS):
        rows[name] = [getattr(f, name) for f in prints]
    for place, grain in enumerate(GRAINS):
        rows[f"hash_{grain}"] = [f.hashes.get(grain, 0) for f in prints]
        rows["grains"] |= np.array([(grain in f.hashes) << place for f in prints], dtype=np.uint8)
    return rows


def _fibres(parameters: Sequence[Parameter], prints: Sequence[Fingerprint]) -> np.ndarray:
    parts = [
        (number, GRAINS.index(grain), axis, found.reshape(-1))
        for number, known in enumerate(prints)
        for grain, axes in known.fibres.items()
        for axis, found in axes.items()
    ]
    del parameters
    dtype = [("parameter", "<i4"), ("grain", "<u1"), ("axis", "<u1"), ("hash", "<f8")]
    rows = np.zeros(sum(found.size for *_, found in parts), dtype=dtype)
    start = 0
    for number, grain, axis, found in parts:
        there = rows[start : start + found.size]
        there["parameter"], there["grain"], there["axis"], there["hash"] = (
            number,
            grain,
            axis,
            found,
        )
        start += found.size
    return rows


def _parameter(row: np.void) -> Parameter:
    text = {name: row[name].decode() for name in _TEXTS}
    return Parameter(
        text["name"],
        tuple(int(n) for n in text["shape"].split(",") if n),
        text["dtype"],
        None,
        text["class_name"],
        text["framework"],
        cast("Kind", text["kind"]),
        tuple(alias for alias in text["aliases"].split("\n") if alias),
    )


def _prints(
    parameters: Sequence[Parameter], digests: np.ndarray, fibres: np.ndarray | None
) -> list[Fingerprint]:
    found = _by_parameter(parameters, fibres) if fibres is not None else {}
    return [
        Fingerprint(
            count=int(row["count"]),
            sum=float(row["sum"]),
            squares=float(row["squares"]),
            min=float(row["min"]),
            max=float(row["max"]),
            grain=row["grain"].decode(),
            hashes={
                grain: int(row[f"hash_{grain}"])
                for place, grain in enumerate(GRAINS)
                if int(row["grains"]) >> place & 1
            },
            fibres=found.get(number, {}),
        )
        for number, row in enumerate(digests)
    ]


def _by_parameter(
    parameters: Sequence[Parameter], rows: np.ndarray
) -> dict[int, dict[str, dict[int, np.ndarray]]]:
    keys = (
        rows["parameter"].astype(np.int64) << 16
        | rows["grain"].astype(np.int64) << 8
        | rows["axis"]
    )
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    found: dict[int, dict[str, dict[int, np.ndarray]]] = {}
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        number, grain, axis = (int(rows[start][name]) for name in ("parameter", "grain", "axis"))
        shape = tuple(n for i, n in enumerate(parameters[number].shape) if i != axis)
        if axis in kept_axes(parameters[number].shape) and prod(shape) == stop - start:
            into = found.setdefault(number, {}).setdefault(GRAINS[grain], {})
            into[axis] = np.array(rows["hash"][start:stop]).reshape(shape)
    return found
