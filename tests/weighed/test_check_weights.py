"""`check` begins with the weights: lying names, exchanged weights, damage, and differences that are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import torch
from gated_models import (
    EXCHANGED,
    RIGHT,
    SUBJECTS,
    State,
    exchanged,
    linen_subject,
    torch_subject,
)
from rich.console import Console

import firstdiff
from firstdiff.diff import Diff
from firstdiff.diff.report.text import print_diff

Checked = Callable[..., Diff]
FRAMEWORKS = pytest.mark.parametrize("framework", list(SUBJECTS))


def text(result: Diff) -> str:
    out = StringIO()
    print_diff(result, console=Console(file=out, width=200, highlight=False))
    return out.getvalue()


def made(framework: str, weights: State, names: tuple[str, str]) -> firstdiff.Subject:
    return SUBJECTS[framework](weights, names=names)


@FRAMEWORKS
def test_a_right_port(checked: Checked, weights: State, framework: str) -> None:
    result = checked(made(framework, weights, RIGHT))
    assert result.exit_code == 0
    assert result.weights.startswith("12/12 equal")
    assert result.audit is not None
    assert result.audit.lines == ()
    owners = [row.pair for row in result.rows if row.pair and row.key.path.endswith("_proj")]
    assert {(pair.evidence, pair.confidence) for pair in owners} == {("weights", 1.0)}


@FRAMEWORKS
def test_lying_names_agree_and_are_shown(checked: Checked, weights: State, framework: str) -> None:
    """gate and up are called by each other's names, and the code goes with the weights."""
    result = checked(made(framework, exchanged(weights), EXCHANGED))
    assert result.exit_code == 0
    assert result.finding is None
    assert result.audit is not None
    assert result.audit.wrong == ()
    pairs = {(p.reference, p.port.rpartition(".")[2]) for p in result.audit.conflicts}
    assert ("layers.0.mlp.gate_proj", "up_proj") in pairs
    words = text(result)
    assert "by its weights, which win" in words
    assert "the port's code goes with its weights" in words


def test_lying_names_behind_another_fault_are_no_alarm(checked: Checked, weights: State) -> None:
    """The norm before them is damaged, so nothing tells yet whether names or weights are exchanged."""
    broken = exchanged(weights) | {"layers.0.norm.weight": torch.ones(32)}
    result = checked(torch_subject(broken, names=EXCHANGED))
    assert result.first is not None
    assert result.first.key.path == "layers.0.norm"
    assert "was never loaded" in result.cause
    assert result.audit is not None
    assert [v.finding for v in result.audit.wrong] == ["never loaded"]
    said = " ".join(result.audit.lines)
    assert "whether weights or names are exchanged is not known" in said


@FRAMEWORKS
def test_exchanged_weights_diverge_with_their_cause(
    checked: Checked, weights: State, framework: str
) -> None:
    """gate's weights were loaded into up; the code goes by the names."""
    result = checked(made(framework, exchanged(weights), RIGHT))
    assert result.exit_code == 1
    assert result.first is not None
    assert result.first.key.path == "layers.0.mlp.gate_proj"
    assert result.cause.startswith("weights: ")
    assert "equals the reference's layers.0.mlp.gate_proj.weight" in result.cause
    assert result.audit is not None
    assert {v.finding for v in result.audit.cause} == {"exchanged"}
    assert len(result.audit.wrong) == 4


@FRAMEWORKS
def test_layers_in_the_wrong_order(checked: Checked, weights: State, framework: str) -> None:
    swapped = {
        name.replace("layers.0", "x")
        .replace("layers.1", "layers.0")
        .replace("x", "layers.1"): value
        for name, value in weights.items()
    }
    result = checked(made(framework, swapped, RIGHT))
    assert result.first is not None
    assert result.first.key.path == "layers.0.norm"
    assert result.cause.startswith("weights: ")


def test_exchanged_names_in_a_model_built_otherwise(checked: Checked, weights: State) -> None:
    """The port has no blocks, so only the map sees whose names are whose."""
    lying = checked(linen_subject(exchanged(weights), names=EXCHANGED, flat=True))
    assert (lying.exit_code, lying.finding) == (0, None)
    swapped = checked(linen_subject(exchanged(weights), names=RIGHT, flat=True))
    assert swapped.first is not None
    assert swapped.cause.startswith("weights: mlp_0.")
    assert "though mlp_0." in swapped.cause


def test_names_that_say_nothing(checked: Checked, weights: State) -> None:
    result = checked(linen_subject(weights, opaque=True))
    assert result.exit_code == 0
    assert result.counts.pairs >= 26
    assert result.counts.evidence["weights"] >= 20


@FRAMEWORKS
def test_a_parameter_that_was_not_loaded(checked: Checked, weights: State, framework: str) -> None:
    broken = weights | {"layers.1.norm.weight": torch.ones_like(weights["layers.1.norm.weight"])}
    result = checked(made(framework, broken, RIGHT))
    assert result.first is not None
    assert result.first.key.path == "layers.1.norm"
    assert "was never loaded: all 1" in result.cause
    assert "WRONG" in text(result)


def test_a_transposed_square_matrix_is_the_cause(
    checked: Checked, weights: State, tmp_path: Path
) -> None:
    name = "layers.0.mlp.down_proj.weight"
    broken = weights | {name: weights[name].reshape(-1, 32).roll(1, 0).reshape(32, 48)}
    result = checked(torch_subject(broken))
    assert result.first is not None
    assert result.first.key.path == "layers.0.mlp.down_proj"
    assert result.cause.startswith("weights: ")
    page = result.to_html(tmp_path / "report.html").read_text()
    assert "WRONG" in page
    assert "Likely cause:</b> weights: " in page
    found = json.loads(result.to_json())
    assert found["exit_code"] == 1
    assert found["audit"]["wrong"][0]["port"] == name


def test_a_folded_factor_is_said_not_alarmed(checked: Checked, weights: State) -> None:
    """up is stored at a quarter, and the code multiplies by four."""
    folded = {name: value / 4 if "up_proj" in name else value for name, value in weights.items()}
    result = checked(torch_subject(folded, gain=4.0))
    assert result.exit_code == 0, result.summary
    assert result.audit is not None
    assert result.audit.wrong == ()
    assert "0.25 = 1/sqrt(16) times the reference's" in text(result)


def test_damage_that_the_inputs_do_not_show(checked: Checked, weights: State) -> None:
    """Rows of the embedding that no token uses."""
    table = weights["embed.weight"].clone()
    table[35] = 0.0
    result = checked(torch_subject(weights | {"embed.weight": table}))
    assert result.finding is None
    assert result.exit_code == 1
    assert (
        "but not all weights are the reference's: embed.weight does not hold all" in result.summary
    )
    assert result.summary.endswith("These inputs do not show it.")


def test_a_shorter_table_is_no_damage(checked: Checked, weights: State) -> None:
    short = weights | {"embed.weight": weights["embed.weight"][:30].clone()}
    subject = torch_subject(weights)
    subject.model.embed.weight.data = short["embed.weight"]
    result = checked(subject)
    assert result.exit_code == 0, result.summary


def test_weights_are_left_out_on_request(
    weights: State, ids: torch.Tensor, reference: Path, tmp_path: Path
) -> None:
    port = tmp_path / "port.h5"
    firstdiff.capture(torch_subject(weights), port, inputs={"ids": ids}, floor=[], weights=False)
    result = firstdiff.diff(reference, port)
    assert result.audit is None
    assert result.weights == ""
    assert result.counts.evidence == {"name": result.counts.pairs}


def test_parameters_in_full_decide_elementwise(
    weights: State, ids: torch.Tensor, tmp_path: Path
) -> None:
    """With --weights a trace tells which elements differ."""
    broken = weights["head.weight"].clone()
    broken[3, 5] += 1.0
    for name, state in (("ref", weights), ("port", weights | {"head.weight": broken})):
        subject = torch_subject(state)
        firstdiff.capture(
            subject, tmp_path / f"{name}.h5", inputs={"ids": ids}, floor=[], weights=True
        )
    with firstdiff.open_trace(tmp_path / "port.h5") as trace:
        assert set(trace.parameters) == set(weights)
    (verdict,) = firstdiff.weights(tmp_path / "ref.h5", tmp_path / "port.h5").wrong
    assert verdict.reference == "head.weight"
    assert "row 3 of 40 differs" in verdict.words


def test_pairs_say_what_they_rest_on_and_how_sure_that_is(
    checked: Checked, weights: State, tmp_path: Path
) -> None:
    result = checked(linen_subject(exchanged(weights), names=EXCHANGED))
    frame = result.frame().set_index("path")
    assert frame.loc["layers.0.norm", "confidence"].min() == 1.0
    crossed = frame.loc["layers.0.mlp.gate_proj"]
    assert set(crossed["evidence"]) == {"weights"}
    assert set(crossed["port_path"]) == {"layers_0.mlp.up_proj"}
    assert crossed["conflict"].str.contains("has this name, but other weights").all()
    page = result.to_html(tmp_path / "report.html").read_text().replace("<wbr>", "")
    assert (
        "paired with layers_0.mlp.up_proj by weights; layers_0.mlp.gate_proj has this name" in page
    )
    rows = json.loads(result.to_json())["rows"]
    assert all(0 < row["pair"]["confidence"] <= 1 for row in rows if row["pair"])
