"""What is printed: line by line, at two widths, without colour."""

from __future__ import annotations

import io
from dataclasses import replace
from html import unescape
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from firstdiff.diff import Diff, diff
from firstdiff.diff.report.format import activation_text, score_text
from firstdiff.diff.report.lines import title
from firstdiff.diff.report.text import print_diff

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Maker


def printed(result: Diff, width: int = 120, **options: bool) -> list[str]:
    """What is printed, but for the warnings about these short inputs."""
    out = io.StringIO()
    result = replace(result, warnings=())
    print_diff(result, console=Console(file=out, width=width, highlight=False), **options)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def compared(reference: Path, port: Path) -> Diff:
    """A result without the parts that other rooms of the differ add: these are printed when they are there."""
    return replace(diff(reference, port), cause="", explanation=None, warnings=())


@pytest.fixture
def rope(maker: Maker) -> Diff:
    return compared(maker.reference(), maker.port("late rope"))


def test_a_divergence(rope: Diff) -> None:
    lines = printed(rope)
    assert lines[:3] == [
        "ref.h5    tiny · torch 1.0 float32 · 2x12 tokens · 97 activations + noise floor (float32)",
        "port1.h5  linen · jax 1.0 jit float32 · 97 activations · tracing did not change the output",
        "aligned   97/97 · 97 by name",
    ]
    assert lines[3].strip() == "error / floor"
    assert [line.split()[:2] for line in lines[4:9]] == [
        ["embed_tokens", "agrees"],
        ["rotary_emb", "agrees"],
        ["layers.0.*", "agree"],
        ["layers.1.input_layernorm", "agrees"],
        ["layers.1.self_attn.{q,k,v}_proj", "agree"],
    ]
    first = lines[9].split()
    assert first[:3] == ["layers.1.self_attn.o_proj", "input", "DIVERGES"]
    assert "worst [" in lines[9]
    assert ": ref " in lines[9]
    assert lines[10:] == [
        "First divergence: inside layers.1.self_attn, after q_proj, k_proj, v_proj (agree), "
        "before o_proj (its input differs).",
        "By position: position 0 agrees, every later position is wrong, all by about the same amount.",
        "Its error is 3.5e-01 (relative L2): 3.9e-07 inherited, 3.5e-01 added here (gain not recorded).",
        "25 later activations differ too, which may all follow from it.",
    ]


def test_an_agreement(maker: Maker) -> None:
    lines = printed(compared(maker.reference(), maker.port()))
    shown = ["embed_tokens", "rotary_emb", "layers.{0-2}.*", "norm", "model", "lm_head"]
    assert [line.split()[0] for line in lines[4:-1]] == shown
    assert lines[-1].startswith(
        "The port agrees with the reference: 97 activations, worst error / floor 1."
    )


def test_a_narrow_terminal_loses_nothing(rope: Diff) -> None:
    lines = printed(rope, width=60)
    text = " ".join(line.strip() for line in lines)
    assert "layers.1.self_attn.o_proj" in text
    place = next(n for n, line in enumerate(lines) if "DIVERGES" in line)
    assert lines[place + 1].startswith("      worst [")
    assert "before o_proj (its input differs)." in text


def test_a_remark_keeps_its_indent_on_every_line(rope: Diff) -> None:
    rows = [
        replace(row, verdict=replace(row.verdict, notes=("a note of several words",) * 5))
        if row.diverges
        else row
        for row in rope.rows
    ]
    lines = printed(replace(rope, rows=tuple(rows)), width=60)
    place = next(n for n, line in enumerate(lines) if "DIVERGES" in line)
    end = next(n for n, line in enumerate(lines) if line.startswith("First divergence"))
    remark = lines[place + 1 : end]
    assert len(remark) > 2
    assert all(line.startswith("      ") and len(line) <= 60 for line in remark)
    assert " ".join(line.strip() for line in remark).count("a note of several words") == 5


def test_all_rows(rope: Diff) -> None:
    lines = printed(rope, all_rows=True)
    assert sum(" agrees " in line for line in lines) == rope.counts.agree
    assert sum("DIVERGES" in line for line in lines) == rope.counts.diverge
    assert sum(" repeated " in line for line in lines) == rope.counts.repeated


def test_what_heals_is_told(maker: Maker) -> None:
    lines = printed(compared(maker.reference(), maker.port("permuted q and k")))
    assert lines[-1] == (
        "Differ without effect on what follows: layers.{0-2}.self_attn.q_proj, layers.{0-2}.self_attn.k_proj."
    )


def test_missing_and_extra_are_listed(maker: Maker, tmp_path: Path) -> None:
    taps = maker.taps(other_order=True)
    for tap in taps:
        tap.same_as = None
        if tap.path.endswith("act_fn"):
            tap.path = tap.path.replace("mlp.act_fn", "mlp.extra.swish")
    result = compared(maker.reference(), maker.write("p.h5", taps, as_port=True))
    page = result.to_html(tmp_path / "p.html").read_text("utf-8").replace("<wbr>", "")
    swish = ", ".join(f"layers_{n}/mlp/extra/swish" for n in range(3))
    for sentence in (
        "Missing in the port: 6 activations: layers.{0-2}.mlp.act_fn.",
        f"Extra in the port: 6 activations: {swish}.",
    ):
        assert sentence in printed(result)
        assert sentence in page


def test_the_page_says_of_a_divergence_what_the_terminal_says(rope: Diff, tmp_path: Path) -> None:
    page = unescape(rope.to_html(tmp_path / "p.html").read_text("utf-8"))
    for line in printed(rope, 400)[-4:]:
        assert line in page


def test_later_parts_are_printed_when_they_are_there(rope: Diff) -> None:
    plain = printed(rope)
    assert not any(line.startswith(("weights", "Likely cause", "Other faults")) for line in plain)
    lines = printed(
        replace(rope, weights="290/290 equal", cause="rotary embedding.", other_faults="none.")
    )
    assert "weights   290/290 equal" in lines
    assert "Likely cause: rotary embedding." in lines
    assert "Other faults, each judged on the reference's own inputs: none." in lines


def test_layouts_in_the_head_line(maker: Maker) -> None:
    taps = maker.taps(other_order=True)
    for tap in taps:
        if tap.path.endswith("v_proj") and tap.site == "output":
            tap.value = tap.value.reshape(2, 12, 4, 8)
    lines = printed(compared(maker.reference(), maker.write("p.h5", taps, as_port=True)))
    assert lines[2] == "aligned  97/97 · 97 by name · 3 layouts inferred (heads split)"


def test_a_reference_that_tracing_changed_is_told(rope: Diff) -> None:
    check = {"checked": True, "bitwise": False, "max_abs": 0.25}
    header = replace(rope.reference.header, output_check=check)
    changed = replace(rope, reference=replace(rope.reference, header=header))
    assert "tracing" not in printed(rope, 200)[0]
    assert printed(changed, 200)[0].endswith(" · tracing changed the output by at most 2.5e-01")


def test_a_wrong_integer_shows_its_values(maker: Maker) -> None:
    taps = maker.taps("rope", other_order=True)
    for tap in taps:
        if tap.leaf == "position_ids":
            tap.value = tap.value + np.int64(1)
        if tap.path == "model.rotary_emb" and tap.site == "output":
            tap.value = tap.value * np.float32(1.1)
    lines = printed(compared(maker.reference(), maker.write("p.h5", taps, as_port=True)), width=150)
    assert any(
        "worst [0,0]: ref +0 port +1; 100.00% of the elements differ" in line for line in lines
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a.b"], "a.b"),
        ([""], "the model"),
        (["layers.0.*", "layers.1.*", "layers.2.*"], "layers.{0-2}.*"),
        (["layers.0.x", "layers.2.x"], "layers.{0,2}.x"),
        (["m.q_proj", "m.k_proj", "m.v_proj"], "m.{q,k,v}_proj"),
        (["m.gate_proj", "m.up_proj"], "m.{gate,up}_proj"),
        (["layers.9.mlp", "layers.10.mlp", "layers.11.mlp"], "layers.{9-11}.mlp"),
    ],
)
def test_one_name_for_several(names: list[str], text: str) -> None:
    assert title(names) == text


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (None, ""),
        (0.0, "0.0"),
        (0.62, "0.6"),
        (37.2, "37"),
        (4.1e5, "4.1e+05"),
        (float("inf"), "inf"),
    ],
)
def test_scores(score: float | None, text: str) -> None:
    assert score_text(score) == text


def test_tensors_print_as_what_they_are() -> None:
    assert activation_text("bfloat16", (2, 3)) == "bf16[2,3]"
    assert activation_text("int64", ()) == "i64[]"
