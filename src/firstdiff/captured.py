"""A finished capture: what the command line prints and Python returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstdiff.traces import Header


@dataclass(frozen=True)
class Capture:
    """One finished capture."""

    path: Path
    """The trace."""
    header: Header
    """How it was made."""
    activations: int
    """Recorded activations."""
    nbytes: int
    """Size of the file in bytes."""
    seconds: float
    """Wall time, loading the model included."""

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return {**asdict(self), "path": str(self.path)}

    def lines(self) -> list[str]:
        """What the command line prints."""
        head = self.header
        kind = head.model.get("type") or head.model.get("class") or head.subject
        floors = ", ".join(head.extra.get("floors", {}))
        held = f"{self.activations} activations" + (f" + noise floor ({floors})" if floors else "")
        made = [
            f"{self.path}  {kind}",
            f"{head.framework} {head.dtype}",
            head.mode,
            held,
            f"{self.nbytes / 1e6:.1f} MB",
        ]
        lines = [" · ".join(part for part in made if part)]
        lines += [head.tracing] if head.tracing else []
        if head.never_fired:
            shown = ", ".join(head.never_fired[:5]) + (", ..." if len(head.never_fired) > 5 else "")
            lines.append(f"{len(head.never_fired)} modules never ran: {shown}")
        return lines + [f"note: {note}" for note in head.notes]
