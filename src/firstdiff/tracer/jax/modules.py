"""The count of modules: which the model has, which fired. Apart, because silence must be told from
agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.jax.inside import INSIDE
from firstdiff.tracer.jax.schedule import WHOLE_CALL, Occurrence

if TYPE_CHECKING:
    from firstdiff.tracer.jax.frontend import FrontEnd
    from firstdiff.tracer.selection import Selection


class Census:
    """Modules of a model, with what fired so far."""

    def __init__(self, fronts: Sequence[FrontEnd], model: Any, module: Any = None) -> None:
        self._lists = {front.name: tuple(front.modules(model, module)) for front in fronts}
        self._aliases: dict[str, tuple[str, ...]] = {}
        for front in fronts:
            self._aliases.update(front.aliases(model))
        self._fired: dict[str, dict[str, str]] = {}
        self._fronts: dict[str, None] = {}
        self._possible: dict[str, None] = {}

    def possible(self, occurrences: Iterable[Occurrence]) -> None:
        """Note what would fire if every branch were taken."""
        for occurrence in occurrences:
            if occurrence.tap.key.front_end not in (WHOLE_CALL, INSIDE):
                self._possible[occurrence.key.path] = None

    def fired(self, occurrences: Iterable[Occurrence]) -> None:
        """Note what fired: every activation, selected or not."""
        for occurrence in occurrences:
            key = occurrence.tap.key
            if key.front_end in (WHOLE_CALL, INSIDE):
                continue
            final = self._fired.setdefault(key.path, {})
            final.setdefault(occurrence.key.path, key.class_name)
            self._fronts[key.front_end or "functions"] = None

    def modules(self) -> tuple[tuple[str, str], ...]:
        """(path, class name) of every module: the model's own, a scanned one once per iteration,
        then others that fired."""
        found: dict[str, str] = {}
        for path, class_name in (*self._listed(), *((path, "") for path in self._fired)):
            for final, fired_class in self._fired.get(path, {path: class_name}).items():
                found.setdefault(final, fired_class or class_name)
        return tuple(found.items())

    def never_fired(self) -> tuple[str, ...]:
        """Paths of the model's modules that no activation came from, and of taps in branches that
        were not taken."""
        final = {path for paths in self._fired.values() for path in paths}
        silent = [path for path, _ in self._listed() if path not in self._fired]
        return tuple(dict.fromkeys(p for p in (*silent, *self._possible) if p not in final))

    def _listed(self) -> list[tuple[str, str]]:
        """Modules according to the front ends that fired, or to all while none has: one parameter
        tree is read by linen and by Haiku, which spell it differently."""
        names = [name for name in self._lists if name in self._fronts] or list(self._lists)
        found: dict[str, str] = {}
        for name in filter(self._names_modules, names):
            for path, class_name in self._lists[name]:
                found[path] = found.get(path) or class_name
        return list(found.items())

    def _names_modules(self, front: str) -> bool:
        """Whether a model's tree, as ``front`` reads it, names modules: not where modules fired, and none of these.
        A tree that holds the parameters of several models, or of another framework's modules, is of that kind."""
        listed = {path for path, _ in self._lists[front] if path}
        fired = {path for path in self._fired if path}
        return not listed or not fired or bool(listed & fired)

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Other paths of shared modules."""
        return dict(self._aliases)

    def fronts(self) -> tuple[str, ...]:
        """The front ends that fired."""
        return tuple(self._fronts)

    def front_end(self) -> str:
        """Names of the front ends that fired."""
        return "+".join(self._fronts)

    def silence(self, selection: Selection) -> str:
        """Why a capture recorded nothing, as a sentence."""
        final = [path for paths in self._fired.values() for path in paths]
        if final:
            shown = ", ".join(repr(path) for path in final[:3])
            return (
                f"nothing recorded: {', '.join(selection.globs) or 'the selection'} matches none of "
                f"{len(final)} module paths ({shown}, ...); check the glob"
            )
        return (
            "nothing recorded: no module of a known framework was called and the call has neither array inputs nor "
            "outputs; name the framework, or mark values with firstdiff.tap"
        )
