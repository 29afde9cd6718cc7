"""The map: which module of the port is which of the reference, what each pair rests on, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Evidence = Literal["weights", "contents", "part", "graph", "name", "alias", "only one", "values"]
"""It owns equal parameters; the modules in it do; it holds, or is, a part of the other; it runs between the same
neighbours; its name, or a usual other name of it, says so; it is the only one left in its parent; its results are
equal."""

CERTAIN = 0.95
"""A pair of this confidence is stated as certain."""
CONFIDENCE: dict[Evidence, float] = {
    "weights": 1.0, "contents": 1.0, "part": 0.9, "graph": 0.9, "name": 0.85, "alias": 0.75, "only one": 0.6,
    "values": 0.9,
}  # fmt: skip

Modules = Sequence[tuple[str, str]]
"""(path, class name) of every module in the order in which they run; the class may be empty."""


@dataclass(frozen=True)
class MapPair:
    """One module of the reference and one of the port."""

    reference: str
    """Path in the reference; the root is ``""``."""
    port: str
    """Path in the port."""
    evidence: Evidence
    """What the pair rests on."""
    confidence: float
    """0 to 1; from `CERTAIN` on it is stated as certain."""
    part: bool = False
    """Whether one is only a part of the other, as q_proj of a fused projection."""
    conflict: str = ""
    """What contradicts it: the name would say something else."""
    named: str = ""
    """The port's module that has its name, where that is another one."""


@dataclass(frozen=True)
class ModuleMap:
    """Every module of both sides, paired or not."""

    pairs: tuple[MapPair, ...]
    """In the reference's order."""
    reference_only: tuple[str, ...]
    """Modules of the reference without a counterpart."""
    port_only: tuple[str, ...]
    """Modules of the port without a counterpart."""

    @property
    def conflicts(self) -> tuple[MapPair, ...]:
        """Pairs that names contradict."""
        return tuple(pair for pair in self.pairs if pair.conflict)

    def port_of(self, reference: str) -> str | None:
        """The port's module for one of the reference; None when there is none, or it is only a part."""
        return next((p.port for p in self.pairs if p.reference == reference and not p.part), None)

    def frame(self) -> pd.DataFrame:
        """One row a pair."""
        import pandas as pd

        return pd.DataFrame(
            [asdict(p) for p in self.pairs], columns=list(MapPair.__dataclass_fields__)
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return asdict(self)
