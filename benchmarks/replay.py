"""Replay over the catalogue of seeded faults: is the true place named, by each direction, singly and in pairs?

    nice -n 10 python benchmarks/replay.py --dtypes float32 bfloat16 --pairs 100      # 25 minutes of CPU, one core
    nice -n 10 python benchmarks/replay.py --dtypes bfloat16 --pairs 0                # 6 minutes
    nice -n 10 python benchmarks/replay.py --right-ports --checkpoints 0 1 2 3        # right ports alone, every variant

A fault is placed when its activation is among the faults (score >= 8) and none before it, or among the
suspects (3 to 8) when nothing is a fault, or among the suspicions (below the floor, by its pattern) when nothing
is a suspect either; the latter two are counted apart. A harmless one is placed when it is reported without effect and
nothing else is said. A pair counts twice, once for each of its two faults being listed. A fault that is missed in a
dtype is looked at again in a float32 run: where even there its error is below 3 of that dtype's local floor, it is
smaller than what the dtype rounds away. Cost at size: benchmarks/replay_cost.py.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from firstdiff.diff import diff
from firstdiff.diff.local import recorded_floors
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.faults import FAULTS, Fault
from firstdiff.models.variants import VARIANTS
from firstdiff.port_replay import replay_port
from firstdiff.recording import as_subject, record
from firstdiff.reference_replay import replay_reference
from firstdiff.replay_result import Judged
from firstdiff.traces import open_trace
from seeded import compile_once

if TYPE_CHECKING:
    from firstdiff.diff.replayed import Replay


@dataclass
class Tally:
    """How often the true place was named."""

    right: int = 0
    """Named."""
    suspected: int = 0
    """Named, but only near the limit."""
    patterned: int = 0
    """Named as a suspicion below the floor."""
    total: int = 0
    """Runs."""
    missed: list[str] = field(default_factory=list)
    """Names of the others."""
    below: list[str] = field(default_factory=list)
    """Names of those that rounding hides."""
    caused: int = 0
    """The cause said at the true place is the true one."""
    miscaused: list[str] = field(default_factory=list)
    """Those of which another cause was said there as likely."""

    def add(self, name: str, grade: str, visible: Callable[[], bool] = lambda: True) -> None:
        self.total += 1
        self.right += grade == "right"
        self.suspected += grade == "suspected"
        self.patterned += grade == "suspicion"
        if grade not in ("right", "suspected", "suspicion"):
            (self.missed if visible() else self.below).append(f"{name} ({grade})")

    def add_cause(self, fault: Fault, said: str | None) -> None:
        """Count what was ``said`` at the place of ``fault``; None for nothing certain."""
        self.caused += said == fault.cause
        if said not in (None, fault.cause):
            self.miscaused.append(f"{fault.name} ({said})")

    @property
    def placed(self) -> int:
        """How often it was named in any way."""
        return self.right + self.suspected + self.patterned

    def line(self) -> str:
        share = 100 * self.placed / max(self.total, 1)
        near = f", {self.suspected} of them suspects" if self.suspected else ""
        near += f", {self.patterned} of them suspicions below the floor" if self.patterned else ""
        missed = f"; not: {', '.join(self.missed)}" if self.missed else ""
        if self.below:
            seen = self.total - len(self.below)
            missed += (
                f"; {100 * self.placed / seen:.1f} % of the {seen} that are above the dtype's own "
                f"rounding; below it: {', '.join(name.split()[0] for name in self.below)}"
            )
        return f"{self.placed} of {self.total} ({share:.1f} %) placed{near}{missed}"


class Bench:
    """A tiny checkpoint, its reference in one dtype, and ports of it."""

    def __init__(
        self, folder: Path, dtype: str, framework: str, seed: int, floors: Sequence[str] = ()
    ) -> None:
        """``seed`` draws the weights and the prompt."""
        self._fine: Bench | None = None
        self.folder, self.dtype, self.framework, self.seed = folder, dtype, framework, seed
        name = f"{dtype}-{seed}"
        self.checkpoint = write_checkpoint(folder / f"checkpoint-{name}", seed=seed)
        self.model = as_subject(f"hf:{self.checkpoint}", dtype)
        self.reference = folder / f"reference-{name}-{'-'.join(floors)}.h5"
        wanted = tuple(dict.fromkeys((dtype, *floors)))
        record(self.model, self.reference, inputs=discriminating_inputs(seed=seed), floor=wanted)

    def run(
        self, fault: Fault | None, mode: str = "eager", variant: str | None = None
    ) -> dict[str, Replay]:
        """Both directions on one port, or on a right ``variant`` of it."""
        subject = qwen2.subject(
            self.framework, self.checkpoint, fault=fault, variant=variant, dtype=self.dtype
        )
        trace = self.folder / "port.h5"
        plain: dict[str, Any] = {"floor": (), "verify": False, "force": True, "mode": mode}
        record(subject, trace, inputs=self.reference, **plain)
        free = trace, diff(self.reference, trace)
        return {
            "port": replay_port(self.reference, subject, free=free, mode=mode),
            "reference": replay_reference(self.model, trace),
        }

    def visible(self, name: str) -> bool:
        """Whether fault ``name``, alone in exact arithmetic, is above what this bench's dtype rounds away."""
        fault = FAULTS[name]
        exact = self._exact()
        subject = qwen2.subject(self.framework, exact.checkpoint, fault=fault, dtype="float32")
        trace = self.folder / "exact-port.h5"
        record(
            subject, trace, inputs=exact.reference, floor=(), verify=False, force=True, mode="eager"
        )
        with open_trace(exact.reference) as ours:
            floors = recorded_floors(ours, self.dtype, rounded_alike=False)
            assert floors is not None, "recorded by _exact"
            free = trace, diff(exact.reference, trace)
            result = replay_port(
                exact.reference, subject, free=free, mode="eager", judged=Judged(floors=floors)
            )
        place = fault.activation, fault.site
        scores = [r.row.verdict for r in result.rows if (r.row.name, r.row.key.site) == place]
        return any(v.bad for v in scores)

    def _exact(self) -> Bench:
        """The same model in float32, with the floors of this bench's dtype."""
        if self._fine is None:
            self._fine = Bench(self.folder, "float32", self.framework, self.seed, (self.dtype,))
        return self._fine


def grade(result: Replay, fault: Fault) -> str:
    """Whether the place of ``fault`` comes first."""
    place = fault.activation, fault.site
    if fault.harmless:
        found = [(f.activation, f.site) for f in result.without_effect]
        said = result.faults or result.suspects or result.suspicions
        return "right" if place in found and not said else "not without effect"
    for name, group in places(result).items():
        if group:
            return name if group[0] == place else f"{name}: {' '.join(group[0])} first"
    return "nothing found"


def listed(result: Replay, fault: Fault) -> str:
    """Whether the place of ``fault`` is listed at all."""
    place = fault.activation, fault.site
    return next((name for name, group in places(result).items() if place in group), "not listed")


def cause(result: Replay, fault: Fault) -> str | None:
    """The likely cause that is said at the place of ``fault``, None for none."""
    place = fault.activation, fault.site
    explained = (
        f.explanation.cause
        for f in (*result.faults, *result.suspects)
        if f.explanation is not None and (f.activation, f.site) == place
    )
    suspected = (s.cause for s in result.suspicions if (s.name, s.site) == place)
    return next(itertools.chain(explained, suspected), None)


def places(result: Replay) -> dict[str, list[tuple[str, str]]]:
    """(module, site) of all that was found, by how."""
    return {
        "right": [(f.activation, f.site) for f in result.faults],
        "suspected": [(f.activation, f.site) for f in result.suspects],
        "suspicion": [(s.name, s.site) for s in result.suspicions],
    }


def combined(one: Fault, other: Fault) -> Fault | None:
    """Both faults in one port; None when they change the same thing or show in the same place."""
    if one.harmless or other.harmless or (one.weights and other.weights):
        return None
    if set(one.functions) & set(other.functions) or set(one.config) & set(other.config):
        return None
    if (one.activation, one.site) == (other.activation, other.site):
        return None
    return replace(
        one,
        name=f"{one.name}+{other.name}",
        config={**one.config, **other.config},
        functions={**one.functions, **other.functions},
        weights=one.weights or other.weights,
    )


def pairs(count: int, seed: int) -> Iterator[tuple[Fault, Fault, Fault]]:
    """``count`` random pairs that can be combined."""
    every = list(itertools.combinations(FAULTS.values(), 2))
    random.Random(seed).shuffle(every)
    fitting = ((a, b, both) for a, b in every if (both := combined(a, b)) is not None)
    return itertools.islice(fitting, count)


def told(bench: Bench, what: str, tallies: dict[str, Tally]) -> None:
    """Print where it stands."""
    for direction, tally in tallies.items():
        print(f"{bench.dtype} {direction} replay, {what}: {tally.line()}", flush=True)


def singly(bench: Bench, names: list[str]) -> None:
    tallies = {"port": Tally(), "reference": Tally()}
    for name in names:
        for direction, result in bench.run(FAULTS[name]).items():
            found = grade(result, FAULTS[name])
            tallies[direction].add(name, found, partial(bench.visible, name))
            tallies[direction].add_cause(FAULTS[name], cause(result, FAULTS[name]))
    told(bench, "singly", tallies)
    for direction, tally in tallies.items():
        others = f"; other causes: {', '.join(tally.miscaused)}" if tally.miscaused else ""
        print(f"{bench.dtype} {direction} replay: cause named {tally.caused}{others}", flush=True)


def in_pairs(bench: Bench, count: int, seed: int) -> None:
    tallies = {"port": Tally(), "reference": Tally()}
    for number, (one, other, both) in enumerate(pairs(count, seed), 1):
        for direction, result in bench.run(both).items():
            for fault in (one, other):
                name = f"{fault.name} of {both.name}"
                tallies[direction].add(
                    name, listed(result, fault), partial(bench.visible, fault.name)
                )
        if number % 10 == 0:
            told(bench, f"after {number} pairs", tallies)
    told(bench, "in pairs", tallies)


def right(
    bench: Bench, variants: Sequence[str | None] = (None,), modes: Sequence[str] = ("eager", "jit")
) -> None:
    """Right ports: what is said of them although nothing is wrong. None is the plain port."""
    for mode, variant in itertools.product(modes, variants):
        for direction, result in bench.run(None, mode, variant).items():
            worst = result.worst
            score = worst.row.verdict.score if worst else 0.0
            alarms = len(result.faults) + len(result.suspects)
            print(
                f"{bench.dtype} {direction} replay of the right port {variant or 'itself'}, seed {bench.seed}, {mode}: "
                f"{alarms} alarms, {len(result.suspicions)} suspicions, worst {score:.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--framework", default="linen")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="which pairs")
    parser.add_argument("--checkpoints", nargs="+", type=int, default=[0], help="seeds of weights")
    parser.add_argument(
        "--right-ports", nargs="*", metavar="GLOB", help="right variants (all), and no faults"
    )
    parser.add_argument("--modes", nargs="+", default=["eager", "jit"], choices=("eager", "jit"))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compile_once(Path(folder) / "compiled")
        for dtype, seed in itertools.product(options.dtypes, options.checkpoints):
            bench = Bench(Path(folder), dtype, options.framework, seed)
            globs = options.right_ports
            variants = [v for v in VARIANTS if any(fnmatchcase(v, g) for g in globs or "*")]
            right(bench, (None, *(variants if globs is not None else ())), options.modes)
            if globs is None:
                singly(bench, options.faults)
                in_pairs(bench, options.pairs, options.seed)


if __name__ == "__main__":
    main()
