"""The modules of a twin as its trace would list them, and the true map to the reference's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.models.twins.twin import Twin


def port_modules(
    modules: Iterable[tuple[str, str]], made: Twin, names: Iterable[str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The modules of a twin as its trace would list them, in the order of running, and the truth of the map.

    ``modules`` are the reference's (path, class), ``names`` its parameters. Layers of a stack are spelt `layers.0`.
    A reference module of which the port has only a fused or split form is in the list, under that, but has no truth.
    """
    owners = {name.rpartition(".")[0] for name in names}
    there: dict[str, str] = {}
    listed: dict[str, str] = {}
    exact = {s for name, sources in made.sources.items() for s in sources if made.is_whole(name)}
    for path, _class_name in modules:
        own = [name for name in names if name.rpartition(".")[0] == path]
        if path in owners and not all(name in exact for name in own):
            for name, sources in made.sources.items():
                if any(s.rpartition(".")[0] == path for s in sources):
                    listed.setdefault(made.place(name, path), "")
            continue
        homes = [
            made.place(n, path) for n, sources in made.sources.items() if set(own) & set(sources)
        ]
        fused = path in owners and made.rename(path) not in homes
        there[path] = homes[0] if fused else made.rename(path)
        listed.setdefault(there[path], "")
    return list(listed.items()), there
