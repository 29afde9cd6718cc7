"""What a measurement means. No tolerance: an error is judged as a multiple of the rounding floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.layout import show

if TYPE_CHECKING:
    from firstdiff.diff.floor import Floor
    from firstdiff.diff.measure import Measurement, NonFinite
    from firstdiff.traces.schema import Activation

WARN = 3.0
"""From here an error is a divergence. Right ports reach 2.0 in float32 and 2.8 in bfloat16 (measured)."""
FAIL = 8.0
"""From here it is one beyond doubt, legal bfloat16 partial sums included."""

VerdictKind = Literal[
    "agrees", "diverges", "shape", "dtype", "non-finite", "missing", "extra", "not comparable"
]
Grade = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Verdict:
    """What is said of one row."""

    kind: VerdictKind
    """`dtype` means numbers of different kinds; two float dtypes are a note. `missing`: the port lacks it."""
    score: float | None = None
    """error / floor: how many times the rounding floor the error is; None for what is compared exactly."""
    grade: Grade = "OK"
    """OK below 3, WARN below 8, FAIL from 8; FAIL for every exact verdict that is no agreement."""
    notes: tuple[str, ...] = ()
    """What a person should know about it, in short phrases."""

    @property
    def bad(self) -> bool:
        """Whether it is a divergence of some kind."""
        return self.kind in ("diverges", "shape", "dtype", "non-finite")


def grade_of(score: float) -> Grade:
    """The class of an error / floor ratio."""
    return "OK" if score < WARN else "WARN" if score < FAIL else "FAIL"


def judge(found: Measurement, floor: Floor, reference: Activation, port: Activation) -> Verdict:
    """The verdict on two floating-point activations."""
    notes = [*dtype_note(reference, port)]
    score = score_of(found, floor)
    if found.unlike:
        notes.append(nonfinite_note(found))
        return Verdict("non-finite", score, "FAIL", tuple(notes))
    if found.port_nonfinite.count:
        notes.append(f"{_count(found.port_nonfinite)} on both sides")
    grade = grade_of(score)
    return Verdict("agrees" if grade == "OK" else "diverges", score, grade, tuple(notes))


def score_of(found: Measurement, floor: Floor) -> float:
    """error / floor; 0 for no error."""
    if found.error_l2 == 0:
        return 0.0
    norm = floor.norm(found.reference_l2)
    return found.error_l2 / norm if norm else float("inf")


def judge_exact(found: Measurement, reference: Activation, port: Activation) -> Verdict:
    """The verdict on integers, booleans and masks: equal, or not."""
    notes = (*dtype_note(reference, port),)
    if found.mismatch == 0 and not found.unlike:
        return Verdict("agrees", notes=notes)
    share = "" if found.mismatch is None else f"{found.mismatch:.2%} of the elements differ"
    return Verdict("diverges", None, "FAIL", (*notes, share) if share else notes)


def judge_kinds(found: Measurement | None, reference: Activation, port: Activation) -> Verdict:
    """The verdict on an integer on one side and a float on the other: agreement only when every value is equal."""
    note = f"{reference.dtype} against {port.dtype}"
    if found is not None and found.equal:
        return Verdict("agrees", notes=(f"{note}, equal values",))
    return Verdict("dtype", None, "FAIL", (note,))


def judge_shapes(reference: Activation, port: Activation) -> Verdict:
    """The verdict on two shapes that no layout reconciles."""
    return Verdict("shape", None, "FAIL", (f"{show(reference.shape)} against {show(port.shape)}",))


def dtype_note(reference: Activation, port: Activation) -> tuple[str, ...]:
    """A phrase when the dtypes differ."""
    if reference.dtype == port.dtype:
        return ()
    return (f"{reference.dtype} in the reference, {port.dtype} in the port",)


def nonfinite_note(found: Measurement) -> str:
    """`port has 3 NaN, first at [0,2,1]; reference none`."""
    at = f", first at [{','.join(map(str, found.first_unlike))}]" if found.first_unlike else ""
    sides = (
        f"port has {_count(found.port_nonfinite)}; reference {_count(found.reference_nonfinite)}"
    )
    return f"{sides}{at}"


def _count(found: NonFinite) -> str:
    parts = [(found.nan, "NaN"), (found.posinf, "+inf"), (found.neginf, "-inf")]
    return ", ".join(f"{count} {name}" for count, name in parts if count) or "none"
