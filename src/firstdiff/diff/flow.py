"""Calls chosen by where their result goes: the one that made what the port hands on.

A norm and three projections share an input; when the norm's result is wrong, nothing about it equals the reference's.
But the reference hands that result to the attention, and so the port's norm is what made the attention's input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.call_match import CallPair, correspondence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from firstdiff.diff.calls import Call
    from firstdiff.diff.value_match import ValueMatches
    from firstdiff.traces.schema import Activation


def by_flow(
    pairs: Sequence[CallPair], theirs: Sequence[Call], values: ValueMatches
) -> list[CallPair]:
    """``pairs`` with the port's call exchanged where a free one shares an input too and made what is handed on."""
    handed = _handed(pairs)
    used = {pair.port for pair in pairs}
    made = []
    for pair in pairs:
        wanted = _contradicted(pair, handed)
        better = None if wanted is None else _maker(pair, wanted, theirs, used, values)
        if better is not None:
            used = (used - {pair.port}) | {better.port}
        made.append(better or pair)
    return made


def _handed(pairs: Sequence[CallPair]) -> Mapping[int, int]:
    """Checksums: for a value that a call of the reference was given, what the port's call was given instead."""
    found: dict[int, int] = {}
    for pair in pairs:
        for one, other in pair.instead:
            if one.digest is not None and other.digest is not None:
                found.setdefault(one.digest.checksum, other.digest.checksum)
    return found


def _contradicted(pair: CallPair, handed: Mapping[int, int]) -> int | None:
    """What the port hands on in the place of a result of ``pair``, where its call did not make that."""
    for one, other in pair.like:
        if one.key.site != "output" or one.digest is None or other.digest is None:
            continue
        wanted = handed.get(one.digest.checksum, other.digest.checksum)
        if wanted != other.digest.checksum:
            return wanted
    return None


def _maker(
    pair: CallPair, wanted: int, theirs: Sequence[Call], used: set[Call], values: ValueMatches
) -> CallPair | None:
    """The call that returned ``wanted`` and shares an input with the reference's; the outermost of the best."""
    free = [call for call in theirs if call not in used and _returns(call.at("output"), wanted)]
    found = [correspondence(pair.reference, call, values) for call in free]
    shared = [p for p in found if any(a.key.site == "input" for a, _ in p.equal)]
    return max(shared, key=lambda p: p.score, default=None)


def _returns(results: Sequence[Activation], wanted: int) -> bool:
    return any(a.digest is not None and a.digest.checksum == wanted for a in results)
