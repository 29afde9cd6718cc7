"""Which activations a capture keeps. One rule for every front end."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.traces.schema import Level, Site


@dataclass(frozen=True)
class Selection:
    """Globs over dotted module paths, and the sites that are kept."""

    globs: tuple[str, ...] = ()
    """Keep a module when any glob matches its path (`*.self_attn.*`, `model.layers.[01].*`); empty keeps all."""
    sites: tuple[Site, ...] = ("input", "output")
    """Keep these sites."""
    level: Level = "module"
    """How deep to look: `function` keeps what the model's own functions take and return too, `op` every operation."""
    inside: tuple[str, ...] = ()
    """Look deeper than modules only into modules whose path matches any of these; empty: all that are kept."""

    def wants(self, path: str, site: Site) -> bool:
        """Whether the activations at ``path`` and ``site`` are kept."""
        if site not in self.sites:
            return False
        return not self.globs or any(fnmatchcase(path, glob) for glob in self.globs)

    def looks_into(self, path: str) -> bool:
        """Whether functions and operations that the module at ``path`` runs are kept."""
        if self.level == "module" or not any(self.wants(path, site) for site in self.sites):
            return False
        return not self.inside or any(fnmatchcase(path, glob) for glob in self.inside)
