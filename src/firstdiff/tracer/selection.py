"""Which activations a capture keeps. One rule for every front end."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.traces.schema import Site


@dataclass(frozen=True)
class Selection:
    """Globs over dotted module paths, and the sites that are kept."""

    globs: tuple[str, ...] = ()
    """Keep a module when any glob matches its path (`*.self_attn.*`, `model.layers.[01].*`); empty keeps all."""
    sites: tuple[Site, ...] = ("input", "output")
    """Keep these sites."""

    def wants(self, path: str, site: Site) -> bool:
        """Whether the activations at ``path`` and ``site`` are kept."""
        if site not in self.sites:
            return False
        return not self.globs or any(fnmatchcase(path, glob) for glob in self.globs)
