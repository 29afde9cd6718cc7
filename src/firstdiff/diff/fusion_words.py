"""What is said of modules that were compared in parts. Apart from `granularity`, which compares them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.names import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from firstdiff.diff.fusion import Fusion
    from firstdiff.diff.slicing import Slicing

_SHOWN = 4


@dataclass(frozen=True)
class Told:
    """One call of a fused module."""

    fusion: Fusion
    """Which modules."""
    slicing: Slicing
    """How the members lie in the whole."""
    fits: bool
    """Whether all of them do."""

    @property
    def way(self) -> str:
        """`one behind the other`; with the order, where it is not the members' own."""
        order = self.slicing.order
        if order == tuple(range(len(order))):
            return self.slicing.words
        own = _names([m.path for m in self.fusion.members])
        names = [own[n] for n in order]
        return f"{self.slicing.words}, in the order {', '.join(names)}"


def family(fusion: Fusion) -> str:
    """The side and path of the fused module, with its layer left out: what the same modules of all layers share."""
    path = ("#" if part.isdigit() else part for part in normalise(fusion.whole.path))
    return f"{fusion.side} {'.'.join(path)}"


def sentences(told: Iterable[Told]) -> Iterator[str]:
    """A sentence for each family of fused modules, and one for each layer that is unlike the others."""
    families: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        families[family(one.fusion)].append(one)
    for calls in families.values():
        usual = Counter(one.way for one in calls).most_common(1)[0][0]
        yield _sentence(calls, usual)
        for one in calls:
            if one.way != usual:
                yield (
                    f"{one.fusion.whole.path} of the {one.fusion.side} is unlike the other layers: its parts lie "
                    f"{one.way}."
                )


def _sentence(calls: Sequence[Told], way: str) -> str:
    fusion = calls[0].fusion
    members = ", ".join(_names([m.path for m in fusion.members])[:_SHOWN])
    more = f" and {len(fusion.members) - _SHOWN} more" if len(fusion.members) > _SHOWN else ""
    others = "port" if fusion.side == "reference" else "reference"
    where = f" (and {len(calls) - 1} more like it)" if len(calls) > 1 else ""
    wrong = sum(not one.fits for one in calls)
    doubt = f"; {wrong} of {len(calls)} fit in no way that was tried" if wrong else ""
    return (
        f"the {fusion.side}'s {fusion.whole.path}{where} holds the {others}'s {members}{more}: "
        f"compared in parts, which lie {way}{doubt}."
    )


def _names(paths: Sequence[str]) -> list[str]:
    """The last name of each path; as much more as it takes to tell them apart: `experts.3.w1`."""
    segments = [path.replace("/", ".").split(".") for path in paths]
    for depth in range(1, max(map(len, segments)) + 1):
        names = [".".join(own[-depth:]) for own in segments]
        numbered = any(name.split(".")[0].isdigit() for name in names)
        if len(set(names)) == len(names) and not numbered:
            return names
    return list(paths)
