"""From the runs of a replay to its result: taps judged, causes looked for, notes made. Apart from `port_replay.py` and
`reference_replay.py`, which make the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from firstdiff.replay_floors import floor_note, judged_dtype
from firstdiff.traces.errors import OptionError
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from firstdiff.diff.explain import Suspicion
    from firstdiff.diff.faults import Fault
    from firstdiff.diff.local import FloorOf
    from firstdiff.diff.planting import Planting
    from firstdiff.diff.replayed import Replay, ReplayRow
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Key


@dataclass(frozen=True)
class Judged:
    """Which taps of a replay are judged."""

    only: str | None = None
    """Those of modules whose path matches this glob."""
    start: str | None = None
    """Those from the first tap at or below this module on."""
    floors: FloorOf | None = None
    """By other floors than those of the port's dtype: what another dtype could see."""


@dataclass(frozen=True)
class Found:
    """What judging a replay found, not yet put together."""

    rows: tuple[ReplayRow, ...]
    """Every judged tap."""
    unjudged: tuple[tuple[str, str], ...]
    """The others, with the reason."""
    faults: tuple[Fault, ...] = ()
    """As in `Replay`, like those that follow."""
    suspects: tuple[Fault, ...] = ()
    without_effect: tuple[Fault, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    """Mistakes below the floors."""
    notes: tuple[str, ...] = ()
    """Sentences for people."""


def judged_taps(
    plan: Planting,
    truth: Trace,
    own: Trace,
    floors: Any,
    planted: Mapping[Key, str],
    judged: Judged,
    inputs: Trace,
) -> Found:
    """What the taps of ``plan`` show that ``judged`` asks for. Raises OptionError where it asks for none."""
    from firstdiff.diff.explain.planted import Replayed
    from firstdiff.diff.replayed import faults_of, judge_replay
    from firstdiff.diff.suspecting import TRIPS, explained, find_suspicions

    padding = padding_mask({name: inputs.input_values(name) for name in inputs.inputs})

    def is_planted(key: Key) -> bool:
        return planted.get(key, "-") == ""

    rows, unjudged = judge_replay(
        plan,
        truth,
        own,
        floors,
        planted=is_planted,
        padding=padding,
        only=judged.only,
        start=judged.start,
    )
    if not rows:
        asked = " and ".join(
            f"{name} {value}"
            for name, value in (("--only", judged.only), ("--from", judged.start))
            if value
        )
        paths = ", ".join(list(dict.fromkeys(t.row.name for t in plan.taps if t.row.name))[:4])
        raise OptionError(
            f"{asked or 'replay'}: no aligned activation; there are modules like {paths}"
        )
    faults, suspects, without = (tuple(group) for group in faults_of(rows))
    found = Found(rows, unjudged, faults, suspects, without)
    replayed = Replayed(plan, truth, own, is_planted)
    try:
        return replace(
            found,
            suspicions=find_suspicions(replayed, rows, padding),
            faults=explained(replayed, rows, faults, padding),
            suspects=explained(replayed, rows, suspects, padding),
        )
    except TRIPS as error:
        failed = f"no causes: looking for them failed ({type(error).__name__}: {error})"
        return replace(found, notes=(failed,))


def result_of(
    found: Found,
    plan: Planting,
    planted: Mapping[Key, str],
    reference: str,
    port: str,
    seconds: tuple[float, float, int],
) -> Replay:
    """The result; ``seconds`` are those of the free run and of the forced passes, and how many these were."""
    from firstdiff.diff.replayed import Cost, Replay

    put = [tap for key, tap in plan.keys().items() if planted.get(key, "-") == ""]
    nbytes = sum(tap.pair.port.place.nbytes for tap in put if tap.pair.port.place is not None)
    return Replay(
        plan.direction,
        reference,
        port,
        judged_dtype(plan.reference, plan.port),
        found.rows,
        found.faults,
        found.suspects,
        found.without_effect,
        found.unjudged,
        Cost(*seconds, planted=len(put), nbytes=nbytes),
        (*_notes(plan, planted), *found.notes),
        found.suspicions,
    )


def _notes(plan: Planting, planted: Mapping[Key, str]) -> Iterator[str]:
    """What stayed the model's own, by reason."""
    note = floor_note(plan.reference, plan.port) if plan.direction == "port" else ""
    if note:
        yield note
    reasons: dict[str, list[str]] = {}
    for key, tap in plan.keys().items():
        reason = planted.get(key, "its shape or kind does not fit")
        if reason:
            reasons.setdefault(reason, []).append(f"{tap.row.name} {tap.row.label}")
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"not replaced: {shown}: {reason}"
