"""The audit and the map, measured: right verdicts over every transform and damage, modules mapped. Minutes.

    python benchmarks/weights.py [--family llama] [--seeds 2]

Twins are ports made by rule (`models.twins`), damages are done to them (`models.damages`); values are random. What it
costs is measured by `weights_cost.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.weights.audit import Audit, audit
from firstdiff.diff.weights.mapbuilder import module_map
from firstdiff.diff.weights.match import Side
from firstdiff.diff.weights.modulemap import CERTAIN
from firstdiff.diff.weights.table import parameter_tables, read_tables
from firstdiff.models.damages import DAMAGES, Damage, damage
from firstdiff.models.families import FAMILIES, Family, family
from firstdiff.models.twins import Rules, Twin, parameters, port_modules, twin

if TYPE_CHECKING:
    from firstdiff.traces.parameters import Parameter

SCHEMES = ("same", "meta", "gemma", "flax", "opaque", "lying")
DAMAGED: tuple[dict[str, Any], ...] = (
    {}, {"names": "meta"}, {"framework": "equinox"}, {"framework": "", "names": "opaque"},
    {"stack": 0, "names": "flax"}, {"stack": 1}, {"qkv": "flat"},
    {"qkv": "head-major", "gate_up": True, "names": "gemma"},
    {"dtype": "bfloat16", "names": "meta", "shuffle": True}, {"split_heads": True, "framework": "nnx"},
    {"experts": "looped"},
)  # fmt: skip
MAPPED: tuple[dict[str, Any], ...] = (
    {}, {"stack": 0}, {"stack": 1, "shuffle": True}, {"qkv": "flat"},
    {"qkv": "head-major", "stack": 0, "gate_up": True},
    {"framework": "equinox"}, {"split_heads": True}, {"dtype": "bfloat16"},
)  # fmt: skip


def clean_rules() -> Iterator[Rules]:
    """Every way of making a right twin that is measured."""
    for framework, names in product(("linen", "haiku", "equinox", ""), SCHEMES):
        yield Rules(framework=framework, names=names)
        yield Rules(framework=framework, names=names, dtype="bfloat16", shuffle=True)
    for qkv, stack, gate_up in product(
        ("flat", "head-major", "interleaved"), (None, 0, 1, 2), (False, True)
    ):
        names, framework = ("opaque", "equinox") if gate_up else ("same", "linen")
        yield Rules(qkv=qkv, stack=stack, gate_up=gate_up, names=names)  # type: ignore[arg-type]  # literals of a product
        yield Rules(
            qkv=qkv,
            stack=stack,
            gate_up=gate_up,
            dtype="bfloat16",
            names="meta",
            framework=framework,
        )  # type: ignore[arg-type]  # as above
    for experts, stack in product(("batched", "looped"), (None, 0, 1)):
        yield Rules(experts=experts, stack=stack)  # type: ignore[arg-type]  # as above
        yield Rules(experts=experts, stack=stack, gate_up=True, names="opaque", framework="equinox")  # type: ignore[arg-type]  # as above
    changes: tuple[dict[str, Any], ...] = (
        {"split_heads": True}, {"rotary": True}, {"scale": True}, {"one_plus": True},
        {"rotary": True, "scale": True, "split_heads": True},
    )  # fmt: skip
    for change, stack in product(changes, (None, 0, 1)):
        yield Rules(**change, stack=stack)
        yield Rules(**change, stack=stack, names="opaque", qkv="flat")


def traced(records: Sequence[Parameter]) -> Side:
    """What a capture keeps of a larger model: digests of all parameters, values of vectors alone."""
    side = read_tables(parameter_tables(records).get)
    assert side is not None
    vectors = [p.size // max(p.shape, default=1) <= 8 or "bias" in p.leaf for p in records]
    kept = [one if v else p for one, v, p in zip(records, vectors, side.parameters, strict=True)]
    return Side(tuple(kept), side.prints)


def clean_traces(families: list[str]) -> dict[str, Any]:
    """False alarms on right twins of which both sides are traces; how often digests leave something open."""
    total = alarms = untold = 0
    for name in families:
        source = family(name)
        reference = traced(parameters(source.values, "torch", source.classes))
        for rules in clean_rules():
            made = twin(source.values, source.kind, source.geometry, rules)
            result = audit(reference, traced(made.parameters()))
            total += 1
            alarms += bool(result.wrong)
            untold += any("digests do not tell" in v.words for v in result.notes)
    return {"right twins": total, "false alarms": alarms, "something left open": untold}


def clean(families: list[str]) -> dict[str, Any]:
    """False alarms on right twins, with the reference as torch modules and as a bare checkpoint."""
    total = alarms = 0
    for name in families:
        source = family(name)
        references = parameters(source.values, "torch", source.classes), parameters(source.values)
        for rules, reference in product(clean_rules(), references):
            made = twin(source.values, source.kind, source.geometry, rules)
            total += 1
            if audit(reference, made.parameters()).wrong:
                alarms += 1
                print("false alarm:", name, rules, file=sys.stderr)
    return {"right twins": total, "false alarms": alarms}


def damaged(families: list[str], count: int, seeds: int, *, traces: bool = False) -> dict[str, Any]:
    """Damages found, ``count`` at once: each by a right finding at the right place, and nothing else called wrong."""
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for name, (number, rules), kind, seed in product(
        families, enumerate(DAMAGED), DAMAGES, range(seeds)
    ):
        source = family(name)
        random = np.random.default_rng([number, seed, len(kind), count])
        made = twin(source.values, source.kind, source.geometry, Rules(**rules))
        sources = dict(made.sources)
        kinds = [kind, *(list(DAMAGES)[random.integers(len(DAMAGES))] for _ in range(count - 1))]
        done = [found for found in (damage(made, k, random) for k in kinds) if found is not None]
        touched = [t for found in done for t in found.touched]
        if len(done) < count or len(set(touched)) < len(touched):
            continue
        total[kind] += 1
        sides = parameters(source.values, "torch", source.classes), made.parameters()
        result = audit(*map(traced, sides)) if traces else audit(*sides)
        if _all_found(result, done, sources) and not _strays(result, touched, sources):
            right[kind] += 1
        else:
            print("not right:", name, rules, [found.touched for found in done], file=sys.stderr)
    return {
        "cases": sum(total.values()),
        "right": sum(right.values()),
        "by kind": {k: f"{right[k]}/{n}" for k, n in total.items()},
    }


def _all_found(result: Audit, done: list[Damage], sources: dict[str, tuple[str, ...]]) -> bool:
    return all(
        any(
            v.finding in d.findings and _at(v.port, v.reference, d.touched, sources)
            for v in result.wrong
        )
        for d in done
    )


def _strays(result: Audit, touched: list[str], sources: dict[str, tuple[str, ...]]) -> bool:
    return any(not _at(v.port, v.reference, touched, sources) for v in result.wrong)


def _at(port: str, reference: str, touched: Any, sources: dict[str, tuple[str, ...]]) -> bool:
    where, what = (name.split(" ")[0].split("[")[0] for name in (port, reference))
    return where in touched or any(what and what in sources.get(t, ()) for t in touched)


def mapped(families: list[str]) -> dict[str, Any]:
    """Share of modules mapped rightly, by how the port is named. Dropouts are left out of the port, and siblings run in
    another order, as in real ports."""
    figures: dict[str, Any] = {}
    for names in ("same", "meta", "opaque", "lying"):
        counts: Counter[str] = Counter()
        for name, rules in product(families, MAPPED):
            _count(counts, family(name), twin_of(name, Rules(**{**rules, "names": names})))
        figures[names] = {
            "with parameters": f"{counts['own right']}/{counts['own']}",
            "without": f"{counts['other right']}/{counts['other']}",
            "wrong": counts["wrong"],
            "wrong and stated as certain": counts["certain"],
        }
    return figures


def twin_of(name: str, rules: Rules) -> Twin:
    """A right twin."""
    source = family(name)
    return twin(source.values, source.kind, source.geometry, rules)


def _count(counts: Counter[str], source: Family, made: Twin) -> None:
    modules = [(path, kind) for path, kind in source.classes.items() if kind != "ModuleList"]
    gone = {path for path, kind in modules if kind == "Dropout"}
    port, truth = port_modules([m for m in modules if m[0] not in gone], made, list(source.values))
    reference = parameters(source.values, "torch", source.classes)
    found = audit(reference, made.parameters()).found
    pairs = {
        p.reference: p for p in module_map(found, modules, _reordered(port)).pairs if not p.part
    }
    owners = {p.owner for p in reference}
    for path, _ in modules:
        pair, right = pairs.get(path), truth.get(path)
        if right is None and path not in gone:
            continue  # only fused or split in the port
        kind = "own" if path in owners else "other"
        counts[kind] += 1
        counts[f"{kind} right"] += (pair.port if pair else None) == right
        if pair is not None and pair.port != right:
            counts["wrong"] += 1
            counts["certain"] += pair.confidence >= CERTAIN


def _reordered(modules: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """First of three siblings last, as q, k, v; each pair exchanged, as gate and up: only owners of parameters move."""
    paths = [path for path, _ in modules]
    made = list(modules)
    for place in range(len(paths) - 1):
        one, other = paths[place], paths[place + 1]
        same = one.rpartition(".")[0] == other.rpartition(".")[0]
        if same and {one.rpartition(".")[2], other.rpartition(".")[2]} & {
            "up_proj",
            "w3",
            "up",
            "k_proj",
            "wk",
        }:
            made[place], made[place + 1] = made[place + 1], made[place]
    return made


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    families = options.family or list(FAMILIES)
    print(json.dumps({"clean": clean(families)}), flush=True)
    print(json.dumps({"clean, traces": clean_traces(families)}), flush=True)
    print(json.dumps({"map": mapped(families)}), flush=True)
    found = damaged(families, 1, options.seeds, traces=True)
    print(json.dumps({"1 at once, traces": found}), flush=True)
    for count in (1, 2):
        print(json.dumps({f"{count} at once": damaged(families, count, options.seeds)}), flush=True)


if __name__ == "__main__":
    main()
