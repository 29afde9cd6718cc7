"""Layers that one side keeps in groups, as a block of two with a remainder; and modules that one side alone has."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from firstdiff.diff import diff
from firstdiff.diff.align import align
from firstdiff.diff.grouped import match_grouped
from firstdiff.diff.modules import modules_of
from firstdiff.traces.schema import Activation, Key

LINEN = {"layers": "blocks", "self_attn": "attention", "o_proj": "wo", "q_proj": "wq"}


def paired(path: str) -> str:
    """`model.layers.3.mlp` as `blocks_1/sub_1/mlp`, other words as they are."""
    path = path.removeprefix("model.").replace(".", "/")
    return re.sub(
        r"layers/(\d+)", lambda found: f"blocks_{int(found[1]) // 2}/sub_{int(found[1]) % 2}", path
    )


def renamed(path: str) -> str:
    for ours, theirs in LINEN.items():
        path = re.sub(rf"(^|/){ours}(?=/|$)", rf"\1{theirs}", path)
    return path


NAMES: dict[str, Callable[[str], str]] = {
    "same names": paired,
    "other names": lambda path: renamed(paired(path)),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("fault", ["", "bias", "late rope", "gelu", "residual"])
def test_two_layers_in_a_block_are_two_layers(maker, names: str, fault: str) -> None:
    """Three layers: one block of two, and one of one. A fault changes nothing of who is who."""
    taps = maker.taps(fault, other_order=True)
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True, rename=NAMES[names]))
    plain = diff(maker.reference(), maker.port(fault))
    assert result.counts.pairs == plain.counts.pairs
    assert (result.counts.missing, result.counts.extra) == (0, 0)
    assert result.exit_code == plain.exit_code
    assert (result.finding and result.finding.sentence) == (
        plain.finding and plain.finding.sentence
    )


def test_the_reference_may_be_the_one_that_groups(maker) -> None:
    reference = maker.write("r.h5", maker.taps(), rename=paired)
    result = diff(reference, maker.port("gelu"))
    assert result.counts.missing == 0
    assert result.finding is not None
    assert result.finding.region == "blocks_0/sub_1/mlp/act_fn"


def activations(*paths: str) -> list[Activation]:
    return [
        Activation(n, Key(path, "output", "", "forward"), "float32", (2, 3))
        for n, path in enumerate(paths)
    ]


LEAVES = ("norm", "attn.q_proj", "attn.o_proj", "mlp.down_proj")


def test_another_number_of_units_pairs_nothing() -> None:
    ours = activations(*(f"layers.{n}.{leaf}" for n in range(3) for leaf in LEAVES))
    theirs = activations(
        *(f"groups_{n}.{part}.{leaf}" for n in range(2) for part in "ab" for leaf in LEAVES)
    )
    assert match_grouped(modules_of(ours), modules_of(theirs), []) == []
    found = match_grouped(modules_of(ours), modules_of(theirs[:12]), [])
    assert [(p.reference.path, p.port.path) for p in found][::4] == [
        ("layers.0.norm", "groups_0.a.norm"),
        ("layers.1.norm", "groups_0.b.norm"),
        ("layers.2.norm", "groups_1.a.norm"),
    ]


def test_units_of_other_content_pair_nothing() -> None:
    ours = activations(*(f"layers.{n}.{leaf}" for n in range(2) for leaf in LEAVES))
    theirs = activations(
        *(f"g_{n}.s.{leaf}" for n in range(2) for leaf in ("conv", "pool", "norm"))
    )
    assert match_grouped(modules_of(ours), modules_of(theirs), []) == []


def test_a_module_of_one_side_alone_is_said_and_its_neighbours_are_compared(maker) -> None:
    taps = [
        t for t in maker.taps(other_order=True) if not t.path.endswith(("act_fn", "rotary_emb"))
    ]
    for tap in taps:
        tap.same_as = None
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert result.exit_code == 0
    missing = {row.name for row in result.rows if row.verdict.kind == "missing"}
    assert missing == {"rotary_emb", *(f"layers.{n}.mlp.act_fn" for n in range(3))}
    assert result.counts.agree == result.counts.pairs == 97 - result.counts.missing


def test_the_usual_alignment_comes_first() -> None:
    ours = activations(*(f"layers.{n}.{leaf}" for n in range(2) for leaf in LEAVES))
    theirs = activations(*(f"layers_{n}.{leaf}" for n in range(2) for leaf in LEAVES))
    assert {pair.evidence for pair in align(ours, theirs).pairs} == {"name"}
