"""What the headers know about precision, told where it may be what differs. Evidence beside the numbers, no verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.judge import WARN
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firstdiff.diff.row import Row
    from firstdiff.traces.schema import Header

_KNOWN = ("float64", "float32", "float16", "bfloat16")


def precision_notes(
    reference: Header, port: Header, rows: Iterable[Row], dtype: str
) -> Iterator[str]:
    """Sentences about ways of computing that are less precise, or merely other, and that no model file shows.

    ``dtype`` is that of the coarser run. Where nothing differs by more than rounding, only a reference whose own
    weights were rounded is told.
    """
    yield from _rounded_reference(reference)
    doubtful = [row for row in rows if row.diverges and row.verdict.score is not None]
    if not doubtful:
        return
    for side, header in (("reference", reference), ("port", port)):
        yield from _products(side, header)
    if dtype in ("bfloat16", "float16") and all(row.verdict.grade == "WARN" for row in doubtful):
        legal = f"{dtype} partial sums (tensor parallel, split-K)"
        if port.precision.get("excess_precision"):
            legal += ", and excess precision under jit (--exact turns it off)"
        yield (
            f"Every divergence is between {WARN:.0f} and 8 times the floor, where other right ways of computing lie "
            f"too: {legal}. Repeat in float32 to tell."
        )


def _rounded_reference(header: Header) -> Iterator[str]:
    """A reference that was loaded in a coarser dtype than its checkpoint has."""
    own = header.model.get("config", {}).get("checkpoint_dtype")
    if (
        own in _KNOWN
        and header.dtype in _KNOWN
        and unit_roundoff(header.dtype) > unit_roundoff(own)
    ):
        yield (
            f"reference: loaded in {header.dtype}, its checkpoint holds {own}: its weights are rounded. A port with "
            f"the checkpoint's own weights differs by that; capture the reference again with --dtype {own}."
        )


def _products(side: str, header: Header) -> Iterator[str]:
    """Matrix products that round their operands by default."""
    if header.dtype != "float32":
        return
    switches, device = header.precision, header.device.lower()
    if header.framework == "jax":
        level = str(switches.get("matmul_precision") or "default")
        if level in ("highest", "float32") or device.startswith("cpu") or not device:
            return
        rounded = "bfloat16" if "tpu" in device or level.startswith("bfloat16") else "TF32"
        remedy = 'jax_default_matmul_precision="highest"'
    else:
        tf32 = switches.get("cuda_matmul_tf32") or switches.get("float32_matmul_precision") in (
            "high",
            "medium",
        )
        if not tf32 or not device.startswith("cuda"):
            return
        rounded, remedy = "TF32", 'torch.set_float32_matmul_precision("highest")'
    yield f"{side}: matrix products on {header.device} may round float32 operands to {rounded}: set {remedy}."
