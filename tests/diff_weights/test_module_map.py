"""The map: right whatever the names, honest about what it cannot know, and readable by --map."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from firstdiff.auditing import map_modules
from firstdiff.diff.align import DEFAULT_MATCHERS, align
from firstdiff.diff.mapping import read_map
from firstdiff.diff.weights.mapbuilder import module_map
from firstdiff.diff.weights.maptext import lines, toml
from firstdiff.diff.weights.matcher import match_graph, weights_matcher
from firstdiff.diff.weights.modulemap import CERTAIN, ModuleMap
from firstdiff.diff.weights.places import stacked_path
from firstdiff.diff.weights.search import search
from firstdiff.models.checkpoint import write_checkpoint
from firstdiff.models.families import FAMILIES, family
from firstdiff.models.qwen2.ports import subject
from firstdiff.models.twins import Rules, parameters, port_modules, twin
from firstdiff.traces.schema import Activation, Key

Modules = list[tuple[str, str]]


def mapped(name: str, rules: Rules) -> tuple[ModuleMap, dict[str, str], Modules]:
    source = family(name)
    made = twin(source.values, source.kind, source.geometry, rules)
    modules = [(path, kind) for path, kind in source.classes.items() if kind != "ModuleList"]
    there, truth = port_modules(modules, made, list(source.values))
    found = search(parameters(source.values, "torch", source.classes), made.parameters())
    return module_map(found, modules, there), truth, there


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "rules",
    [
        Rules(names="opaque", shuffle=True),
        Rules(names="lying", stack=0),
        Rules(names="opaque", qkv="head-major", gate_up=True, stack=1),
        Rules(names="meta", framework="equinox", dtype="bfloat16"),
    ],
)
def test_every_module_is_found_without_names_and_against_them(name: str, rules: Rules) -> None:
    result, truth, _ = mapped(name, rules)
    assert {pair.reference: pair.port for pair in result.pairs if not pair.part} == truth


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_parts_of_a_fused_projection_are_parts(name: str) -> None:
    result, _, _ = mapped(name, Rules(qkv="flat"))
    parts = {pair.reference: pair.port for pair in result.pairs if pair.part}
    home = "model.layers.1.self_attn"
    assert {parts[f"{home}.{p}_proj"] for p in "qkv"} == {f"{home}.qkv_proj"}
    assert result.port_of(f"{home}.q_proj") is None


def test_names_that_weights_contradict_are_shown_and_weights_win() -> None:
    source = family("llama")
    values = dict(source.values)
    for layer in range(3):
        gate, up = (f"model.layers.{layer}.mlp.{role}_proj.weight" for role in ("gate", "up"))
        values[gate], values[up] = values[up], values[gate]
    found = search(
        parameters(source.values, "torch", source.classes),
        parameters(values, "torch", source.classes),
    )
    result = module_map(found, list(source.classes.items()), list(source.classes.items()))
    assert result.port_of("model.layers.0.mlp.gate_proj") == "model.layers.0.mlp.up_proj"
    assert len(result.conflicts) == 6
    assert (
        result.conflicts[0].conflict
        == "model.layers.0.mlp.gate_proj has this name, but other weights"
    )


def test_modules_that_only_one_side_has_stay_alone() -> None:
    source = family("bert")
    modules = [(path, kind) for path, kind in source.classes.items() if kind != "ModuleList"]
    port = [(path, kind) for path, kind in modules if kind != "Dropout"]
    records = parameters(source.values, "torch", source.classes)
    result = module_map(search(records, records), modules, port)
    assert set(result.reference_only) == {path for path, kind in modules if kind == "Dropout"}
    assert all(pair.reference == pair.port for pair in result.pairs)


def test_a_dropout_that_the_port_lacks_does_not_hide_its_neighbour() -> None:
    source = family("gpt2")
    modules = [(path, kind) for path, kind in source.classes.items() if kind != "ModuleList"]
    port = [(path.replace(".act", ".gelu"), kind) for path, kind in modules if kind != "Dropout"]
    records = parameters(source.values, "torch", source.classes)
    result = module_map(search(records, records), modules, port)
    assert result.port_of("transformer.h.1.mlp.act") == "transformer.h.1.mlp.gelu"


def test_equal_weights_in_two_places_are_never_certain() -> None:
    values = {
        "first.weight": np.arange(12.0).reshape(3, 4),
        "second.weight": np.arange(12.0).reshape(3, 4),
    }
    port = {"one.weight": values["first.weight"], "other.weight": values["first.weight"]}
    result = module_map(search(parameters(values), parameters(port)))
    owners = [pair for pair in result.pairs if pair.reference]
    assert owners
    assert all(pair.confidence < CERTAIN for pair in owners)


def test_toml_says_layers_once_and_is_what_the_differ_reads() -> None:
    result, truth, there = mapped("qwen2", Rules(names="meta"))
    text = toml(result)
    entries = tomllib.loads(text)
    assert entries["model.layers.*.self_attn.q_proj"] == "model.layers.*.attention.wq"
    path_map = read_map(entries)
    path_map.check(truth, [path for path, _ in there])
    assert len(entries) < 25


def test_lines_for_people() -> None:
    result, _, _ = mapped("llama", Rules(names="meta", qkv="flat"))
    text = lines(result)
    assert any(
        "self_attn.o_proj" in line and "attention.wo" in line and "weights x3, certain" in line
        for line in text
    )
    assert any("q_proj" in line and "part x3" in line for line in text)


@pytest.mark.parametrize(
    ("owner", "known", "path"),
    [
        ("layers.mlp.gate_proj", (), "layers.2.mlp.gate_proj"),
        ("decoder.blocks.mlp", (), "decoder.blocks.2.mlp"),
        ("stack.cell.mlp", ("stack.cell.2.mlp",), "stack.cell.2.mlp"),
        ("stack.mlp", (), "stack.2.mlp"),
    ],
)
def test_layers_of_a_stack_are_spelt_as_traces_spell_them(
    owner: str, known: tuple[str, ...], path: str
) -> None:
    assert stacked_path(owner, ((0, 2),), known) == path


def activation(order: int, path: str, size: int) -> Activation:
    return Activation(order, Key(path, "output"), "float32", (1, size))


def test_the_matchers_pair_what_names_cannot() -> None:
    source = family("llama")
    made = twin(source.values, source.kind, source.geometry, Rules(names="opaque"))
    modules = [(path, kind) for path, kind in source.classes.items() if kind != "ModuleList"]
    there, truth = port_modules(modules, made, list(source.values))
    reference = [activation(n, path, 7) for n, (path, _) in enumerate(modules)]
    port = [activation(n, path, 7) for n, (path, _) in enumerate(there)]
    found = search(parameters(source.values), made.parameters())
    by_weights = weights_matcher(module_map(found, modules, there))
    alone = align(reference, port)
    assert len(alone.pairs) < len(reference) / 2
    alignment = align(reference, port, matchers=(by_weights, match_graph, *DEFAULT_MATCHERS))
    pairs = {
        pair.reference.key.path: (pair.port.key.path, pair.evidence) for pair in alignment.pairs
    }
    assert {path: other for path, (other, _) in pairs.items()} == truth
    assert pairs["model.layers.0.mlp.act_fn"][1] == "graph"
    assert pairs["model.layers.0.mlp.up_proj"][1] == "weights"


def test_the_map_of_a_port_through_the_command(tmp_path: Path) -> None:
    import typer

    from firstdiff.cli.map import map_
    from firstdiff.cli.weights import weights

    folder = write_checkpoint(tmp_path / "ck")
    app = typer.Typer()
    app.command("map")(map_)
    app.command("weights")(weights)
    output = tmp_path / "map.toml"
    run = CliRunner().invoke(app, ["map", str(folder), str(folder), "-o", str(output)])
    assert run.exit_code == 0, run.output
    assert "model.layers.*.mlp.gate_proj" in run.output
    assert read_map(output).pairs
    audit = CliRunner().invoke(app, ["weights", str(folder), str(folder)])
    assert (audit.exit_code, audit.output) == (0, "weights  26/26 equal\n")
    result = map_modules(folder, subject("linen", folder, scan=True))
    assert result.port_of("model.layers.1.mlp.up_proj") == "layers.1.mlp.up_proj"
