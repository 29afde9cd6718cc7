"""The user's own pairs: `--map FILE.toml`. Apart, because it is the only evidence that a person gives.

"model.layers.*.self_attn.o_proj" = "blocks.*.attn.out"     # reference path = port path
ignore = ["*.rotary_emb"]                                     # on either side: left out of the comparison
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from firstdiff.diff.modules import Module, ModulePair
from firstdiff.traces.errors import OptionError


@dataclass(frozen=True)
class PathMap:
    """Pairs of module paths in which each `*` stands for the same text on both sides, and what to ignore."""

    pairs: tuple[tuple[str, str], ...] = ()
    """(reference path, port path), in the file's order; the first that matches wins."""
    ignore: tuple[str, ...] = ()
    """Globs over the module paths of both sides."""
    source: str = "map"
    """File it was read from, for messages."""

    def match(
        self, reference: Sequence[Module], port: Sequence[Module], _pairs: Sequence[ModulePair]
    ) -> list[ModulePair]:
        """A matcher (`modules.Matcher`): the modules that an entry pairs."""
        there = {(module.path, module.method): module for module in port}
        found = []
        for module in reference:
            target = self._target(module.path)
            other = None if target is None else there.pop((target, module.method), None)
            if other is not None:
                found.append(ModulePair(module, other, "map"))
        return found

    def _target(self, path: str) -> str | None:
        for glob, template in self.pairs:
            target = substitute(glob, template, path)
            if target is not None:
                return target
        return None

    def ignores(self, path: str) -> bool:
        """Whether ``path`` stays out of the comparison."""
        return any(fnmatchcase(path, glob) for glob in self.ignore)

    def check(self, reference: Iterable[str], port: Iterable[str]) -> None:
        """Refuse entries that match nothing: a stale map would silently be no map.

        Raises:
            OptionError: names the first stale entry, and which side lacks it.
        """
        ours, theirs = set(reference), set(port)
        for glob, template in self.pairs:
            targets = {substitute(glob, template, path) for path in ours} - {None}
            if not targets:
                raise OptionError(
                    self._stale(glob, template, f"no module of the reference is called {glob!r}")
                )
            if not targets & theirs:
                raise OptionError(
                    self._stale(glob, template, f"no module of the port is called {template!r}")
                )
        for glob in self.ignore:
            if not any(fnmatchcase(path, glob) for path in ours | theirs):
                raise OptionError(
                    f"{self.source}: ignore entry {glob!r} is stale: it matches no module of either side; "
                    f"correct it or take it out"
                )

    def _stale(self, glob: str, template: str, why: str) -> str:
        return f"{self.source}: entry {glob!r} = {template!r} is stale: {why}; correct it or take it out"


def substitute(glob: str, template: str, path: str) -> str | None:
    """``template`` with its stars filled by what the stars of ``glob`` match in ``path``; None when they do not."""
    pattern = "(.*)".join(re.escape(part) for part in glob.split("*"))
    found = re.fullmatch(pattern, path)
    if found is None:
        return None
    texts = iter(found.groups())
    return re.sub(r"\*", lambda _: next(texts, ""), template)


def read_map(source: str | Path | Mapping[str, Any] | PathMap | None) -> PathMap:
    """The map of a TOML file, or of a mapping of the same form; None is the empty map.

    Raises:
        OptionError: the file is missing, no TOML, or an entry is no pair of paths.
    """
    if source is None:
        return PathMap()
    if isinstance(source, PathMap):
        return source
    if isinstance(source, Mapping):
        return _parse(source, "map")
    try:
        return _parse(tomllib.loads(Path(source).read_text(encoding="utf-8")), str(source))
    except OSError as error:
        raise OptionError(
            f"--map {source}: cannot be read ({error.strerror}); give a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(
            f'--map {source}: not TOML ({error}); quote paths: "reference.path" = "port.path"'
        ) from error


def _parse(table: Mapping[str, Any], source: str) -> PathMap:
    entries = {key: value for key, value in table.items() if key != "ignore"}
    for key, value in entries.items():
        if not isinstance(value, str):
            raise OptionError(
                f"{source}: entry {key!r} is no path but a {type(value).__name__}; quote dotted paths: "
                f'"reference.path" = "port.path"'
            )
        if key.count("*") != value.count("*"):
            raise OptionError(
                f"{source}: entry {key!r} = {value!r} has {key.count('*')} and {value.count('*')} stars; "
                f"each star stands for the same text on both sides"
            )
    ignore = table.get("ignore", [])
    if not isinstance(ignore, list) or not all(isinstance(glob, str) for glob in ignore):
        raise OptionError(f'{source}: ignore is no list of globs; write ignore = ["*.rotary_emb"]')
    return PathMap(tuple(entries.items()), tuple(ignore), source)
