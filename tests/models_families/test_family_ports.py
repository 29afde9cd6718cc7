"""The small ports of other families: right at float32 rounding, and compared at every grain without a map."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firstdiff
from firstdiff.diff.result import Diff
from firstdiff.diff.row import Row
from firstdiff.models.fault import Fault
from firstdiff.models.ported import PORTED, subject
from firstdiff.traces.errors import OptionError, SubjectError

Made = Callable[[str], tuple[Path, Path]]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in PORTED),
    ("mixtral", {"experts": "looped"}),
]
RIGHT = 2.5
"""Largest error / floor of a right port; 3 is a divergence."""


RESULTS: dict[tuple[Path, str], Diff] = {}


def checked(made: Made, family: str, **options: Any) -> Diff:
    """The comparison of a port, made once for each set of options."""
    folder, reference = made(family)
    key = folder, str({name: getattr(value, "name", value) for name, value in options.items()})
    if key not in RESULTS:
        RESULTS[key] = compared(folder, reference, family, options)
    return RESULTS[key]


def compared(folder: Path, reference: Path, family: str, options: dict[str, Any]) -> Diff:
    port = importlib.import_module(f"firstdiff.models.{family}").subject("linen", folder, **options)
    return firstdiff.check(str(reference), port, replay=False)


def parts(result: Diff) -> list[Row]:
    return [r for r in result.rows if r.pair and (r.pair.port.part or r.pair.reference.part)]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_a_right_port_agrees_in_everything_that_both_sides_show(
    made: Made, family: str, options: dict[str, Any]
) -> None:
    result = checked(made, family, **options)
    assert result.finding is None, result.summary
    assert result.counts.healed == 0
    assert result.worst is not None
    assert result.worst.verdict.score is not None
    assert result.worst.verdict.score < RIGHT
    assert result.counts.pairs / (result.counts.pairs + result.counts.missing) > 0.7


@pytest.mark.parametrize(
    ("family", "fused", "members", "side"),
    [
        ("gpt2", ["c_attn"], {"query", "key", "value"}, "reference"),
        ("bert", ["qkv"], {"query", "key", "value"}, "port"),
        ("gemma", ["kv_einsum", "gating_einsum"], {"k_proj", "v_proj", "gate_proj", "up_proj"}, "port"),
    ],
)  # fmt: skip
def test_fused_projections_are_compared_slice_by_slice(
    made: Made, family: str, fused: list[str], members: set[str], side: str
) -> None:
    result = checked(made, family)
    found = parts(result)
    whole, single = ("reference", "port") if side == "reference" else ("port", "reference")
    last = lambda row, who: getattr(row.pair, who).key.path.rpartition(".")[2]
    assert {last(row, whole) for row in found} == set(fused)
    assert {last(row, single) for row in found} == members
    assert len(found) == 3 * len(members)
    assert all(row.verdict.kind == "agrees" for row in found)


def test_images_and_patches_in_other_layouts_are_said(made: Made) -> None:
    layouts = checked(made, "vit").counts.layouts
    assert layouts["transposed"] == 2  # the convolution's input and output, NHWC for NCHW
    assert layouts["tokens split"] == 1  # [b, rows, columns, e] for [b, patches, e]
    assert layouts["heads split"] == 9


def swapped(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Key and value of layer 1 exchanged when c_attn is cut."""
    value = read(name)
    if "h.1.attn.c_attn" not in name:
        return value
    q, k, v = np.split(value, 3, axis=-1)
    return np.concatenate([q, v, k], -1)


def unbiased(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    return np.zeros_like(read(name)) if name.endswith("h.1.attn.c_attn.bias") else read(name)


def wrong(name: str, **changes: Any) -> Fault:
    return Fault(name, "", "", "", "", **changes)


def test_a_fault_in_a_fused_projection_is_placed(made: Made) -> None:
    result = checked(made, "gpt2", fault=wrong("unbiased", weights=unbiased))
    assert result.finding is not None
    assert result.finding.region == "h.1.attn.c_attn"
    assert result.first is not None
    assert result.first.key.leaf.startswith("[..., ")


def test_exchanged_slices_are_told_and_what_follows_from_them_is_found(made: Made) -> None:
    """Which third of c_attn is the key only the code behind it knows: there the first difference shows."""
    result = checked(made, "gpt2", fault=wrong("swapped", weights=swapped))
    assert result.finding is not None
    assert result.finding.region.startswith("h.1.attn")
    told = [note for note in result.notes if "unlike the other layers" in note]
    assert len(told) <= 1


def test_looped_and_batched_experts_meet_slice_by_slice(made: Made, tmp_path: Path) -> None:
    folder, reference = made("mixtral")
    for experts in ("looped", "batched"):
        port = subject("mixtral", "linen", folder, experts=experts)
        firstdiff.capture(port, str(tmp_path / f"{experts}.h5"), inputs=str(reference), floor=())
    for one, other in (("looped", "batched"), ("batched", "looped")):
        result = firstdiff.diff(tmp_path / f"{one}.h5", tmp_path / f"{other}.h5")
        assert result.exit_code == 0
        assert (result.counts.missing, result.counts.extra) == (0, 0)
        assert result.counts.agree == result.counts.pairs
        assert len([r for r in parts(result) if r.key.site == "output"]) == 3 * 4 * 4
        assert any("experts.0.w1, experts.1.w1" in note for note in result.notes)


def two_faults(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    wrong = name.endswith(("h.1.attn.c_attn.bias", "h.2.mlp.c_proj.bias"))
    return np.zeros_like(read(name)) if wrong else read(name)


def test_a_replay_plants_and_judges_slices(made: Made) -> None:
    folder, reference = made("gpt2")
    port = subject("gpt2", "linen", folder, fault=wrong("two", weights=two_faults))
    result = firstdiff.replay(str(reference), port)
    assert [fault.title for fault in result.faults] == ["h.1.attn.c_attn", "h.2.mlp.c_proj"]


def test_reports_show_slices(made: Made, tmp_path: Path) -> None:
    result = checked(made, "gpt2", fault=wrong("unbiased", weights=unbiased))
    assert not [note for note in result.notes if "looking for one failed" in note]
    page = result.to_html(tmp_path / "r.html").read_text("utf-8").replace("<wbr>", "")
    assert "h_1.attn.query" in page
    assert "[..., 0:32]" in result.to_json()
    assert result.to_parquet(tmp_path / "r.parquet").stat().st_size


def test_a_fault_replaces_functions_of_a_private_copy(made: Made) -> None:
    folder, _ = made("gpt2")
    fault = wrong("relu", functions={"gelu": lambda x: x * (x > 0)})
    result = checked(made, "gpt2", fault=fault)
    assert result.finding is not None
    assert result.finding.region == "h.0.mlp.act"
    assert checked(made, "gpt2").finding is None
    with pytest.raises(OptionError, match="neither ops nor the port has a function 'nothing'"):
        subject("gpt2", "linen", folder, fault=wrong("odd", functions={"nothing": abs}))


def test_refusals_name_the_place(made: Made, tmp_path: Path) -> None:
    folder, _ = made("gpt2")
    with pytest.raises(OptionError, match="no such port of gpt2; there is linen"):
        subject("gpt2", "nnx", folder)
    with pytest.raises(SubjectError, match="a checkpoint of 'gpt2', the port computes 'bert'"):
        subject("bert", "linen", folder)
    with pytest.raises(SubjectError, match="no configuration"):
        subject("bert", "linen", tmp_path)
