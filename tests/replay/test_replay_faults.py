"""Every seeded fault is placed exactly, by both directions, and a right port raises no alarm."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from firstdiff.models.faults import FAULTS, Fault, find
from firstdiff.models.subject import Subject
from firstdiff.port_replay import replay_port
from firstdiff.recording import as_subject, record
from firstdiff.reference_replay import replay_reference

if TYPE_CHECKING:
    from firstdiff.diff.replayed import Replay

LAYERS = 2
SHOWN = (
    "rotary_interleaved",
    "softmax_bfloat16",
    "heads_not_swapped",
    "padding_ignored",
    "residual_missing",
    "norm_eps",
    "gelu_for_silu",
    "rope_theta",
    "q_bias_missing",
    "gate_up_swapped",
    "head_untied",
)
"""One of every kind; `benchmarks/replay.py` runs the whole catalogue."""


def both(one: str, other: str) -> Fault:
    """Two faults of the catalogue in one port."""
    a, b = find(one), find(other)
    return replace(
        a,
        name=f"{one}+{other}",
        config={**a.config, **b.config},
        functions={**a.functions, **b.functions},
        weights=a.weights or b.weights,
    )


def first_residual_missing() -> Fault:
    """In each layer the first branch replaces the residual stream; the second one is added to it."""
    calls = itertools.count()

    def add_residual(residual: Any, branch: Any) -> Any:
        return branch if next(calls) % 2 == 0 else residual + branch

    fault = find("residual_missing")
    return replace(fault, name="first_residual", functions={"add_residual": add_residual})


def places(result: Replay) -> list[tuple[str, str]]:
    """(module, site) of every fault, in order."""
    return [(fault.activation, fault.site) for fault in result.faults]


def expected(name: str) -> set[tuple[str, str]]:
    """Every place where ``name`` is wrong: in each layer, and in both modules of a pair."""
    fault = FAULTS[name]
    first = {(fault.activation, fault.site)}
    if name == "residual_missing":
        first.add(("layers.0", "output"))
    if name == "gate_up_swapped":
        first.add(("layers.0.mlp.up_proj", "output"))
    if name.startswith("norm"):
        first.add(("layers.0.post_attention_layernorm", "output"))
    if fault.site == "input" and fault.activation == "layers.0":  # the mask is made once
        return first
    other = {(path.replace("layers.0", "layers.1"), site) for path, site in first}
    extra = {("norm", "output")} if name in ("norm_one_plus", "norm_centred", "norm_eps") else set()
    return first | other | extra


def titles(result: Replay) -> list[str]:
    return [fault.title for fault in result.faults]


@pytest.mark.parametrize("name", SHOWN)
def test_both_directions_place_every_instance_of_a_fault_and_nothing_else(
    ported: Callable[..., Any], name: str
) -> None:
    run = ported(name)
    forward, backward = run.port(mode="eager"), run.backward()
    assert set(places(forward)) == expected(name)
    assert set(places(backward)) == expected(name)
    assert len(places(forward)) == len(set(places(forward)))
    first = forward.faults[0]
    assert (first.module, first.activation, first.site) == (
        FAULTS[name].module, FAULTS[name].activation, FAULTS[name].site,
    )  # fmt: skip
    assert forward.exit_code == backward.exit_code == 1
    assert titles(forward) == titles(backward)


@pytest.mark.parametrize(
    ("exchange", "other"),
    [("down_layers_swapped", "norm_eps_outside"), ("kv_swapped", "rope_theta")],
)
def test_exchanged_weights_are_placed_behind_another_fault(
    ported: Callable[..., Any], exchange: str, other: str
) -> None:
    run = ported(both(exchange, other))
    wanted = {(find(name).activation, find(name).site) for name in (exchange, other)}
    assert run.free.first is not None
    assert (run.free.first.name, run.free.first.key.site) == (
        find(other).activation, find(other).site,
    )  # fmt: skip
    for result in (run.port(mode="eager"), run.backward()):
        found = set(places(result))
        assert wanted <= found
        assert not any(path.endswith((".mlp", "o_proj")) for path, _ in found)
        assert any("contradict each other" in note for note in result.notes)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("eager", {}),
        ("jit", {}),
        ("jit", {"scan": True, "remat": True}),
        ("jit", {"dtype": "bfloat16"}),
    ],
    ids=["eager", "jit", "scan-remat", "bfloat16"],
)
def test_a_right_port_raises_no_alarm(
    ported: Callable[..., Any], mode: str, options: dict[str, Any]
) -> None:
    run = ported(None, mode=mode, **options)
    for result in (run.port(mode=mode), run.backward()):
        assert titles(result) == []
        assert result.suspects == ()
        assert result.without_effect == ()
        assert result.exit_code == 0
        assert len(result.rows) > 70
        assert result.cost.planted > 60


@pytest.mark.parametrize(
    ("framework", "name", "options"),
    [
        ("linen", "padding_ignored", {"scan": True}),
        ("nnx", "gelu_for_silu", {}),
        ("equinox", "gelu_for_silu", {}),
        ("haiku", "gelu_for_silu", {}),
        ("haiku", "rotary_interleaved", {"scan": True}),
        ("function", "gelu_for_silu", {}),
    ],
)
def test_replay_works_in_other_frameworks_and_through_scan(
    ported: Callable[..., Any], framework: str, name: str, options: dict[str, Any]
) -> None:
    run = ported(name, framework, mode="jit", **options)
    assert set(places(run.port())) == expected(name)


def test_two_faults_at_once_are_both_listed(ported: Callable[..., Any]) -> None:
    run = ported(both("rotary_interleaved", "gelu_for_silu"))
    wanted = expected("rotary_interleaved") | expected("gelu_for_silu")
    assert set(places(run.port(mode="eager"))) == wanted
    assert set(places(run.backward())) == wanted


def test_a_wrong_residual_connection_shows_once(ported: Callable[..., Any]) -> None:
    run = ported(first_residual_missing())
    wanted = [(f"layers.{i}.post_attention_layernorm", "input") for i in range(LAYERS)]
    assert places(run.port(mode="eager")) == wanted
    assert places(run.backward()) == wanted


def test_a_fault_that_heals_is_no_fault(ported: Callable[..., Any]) -> None:
    run = ported("positions_plus_one")
    for result in (run.port(mode="eager"), run.backward()):
        assert result.faults == ()
        assert "rotary_emb" in {fault.activation for fault in result.without_effect}
        assert result.exit_code == 0


def test_faults_say_between_which_modules_they_lie(ported: Callable[..., Any]) -> None:
    assert titles(ported("rotary_interleaved").port(mode="eager")) == [
        f"glue in layers.{i}.self_attn, between q/k/v_proj and o_proj" for i in range(LAYERS)
    ]
    assert titles(ported("padding_ignored").port(mode="eager")) == [
        "glue in the model, between rotary_emb and layers.0's attention_mask"
    ]
    assert titles(ported("residual_missing").port(mode="eager"))[:2] == [
        "glue in layers.0, between self_attn and post_attention_layernorm",
        "glue in layers.0, after self_attn, mlp",
    ]
    sentence = ported("rotary_interleaved").port(mode="eager").faults[0].finding.sentence
    assert sentence == (
        "inside layers.0.self_attn, after q_proj, k_proj, v_proj (agree), before o_proj (its input differs)."
    )


def test_a_value_that_is_not_finite_is_blamed_on_its_origin(ported: Callable[..., Any]) -> None:
    run = ported("mask_infinite")
    forward, backward = run.port(mode="eager"), run.backward()
    assert places(forward) == [(f"layers.{i}.self_attn.o_proj", "input") for i in range(LAYERS)]
    assert places(backward) == [("layers.0.self_attn.o_proj", "input")]
    assert forward.faults[0].finding.kind == "non-finite"
    assert forward.faults[0].score is None


def test_bfloat16_finds_a_structural_fault(ported: Callable[..., Any]) -> None:
    run = ported("gqa_tiled", dtype="bfloat16")
    assert set(places(run.port(mode="eager"))) == expected("gqa_tiled")
    assert set(places(run.backward())) == expected("gqa_tiled")


def test_only_and_from_choose_what_is_judged(ported: Callable[..., Any]) -> None:
    from firstdiff.replay_result import Judged
    from firstdiff.traces.errors import OptionError

    run = ported("gelu_for_silu")
    one = run.backward(judged=Judged(only="layers.1.*"))
    assert places(one) == [("layers.1.mlp.act_fn", "output")]
    later = run.backward(judged=Judged(start="layers.1.self_attn"))
    assert places(later) == [("layers.1.mlp.act_fn", "output")]
    assert all("layers.0" not in row.row.name for row in later.rows)
    with pytest.raises(OptionError, match=r"--only decoder\.\*: no aligned activation"):
        run.backward(judged=Judged(only="decoder.*"))


class Stubborn(torch.nn.Module):
    """Like a custom kernel: refuses float64. ``factor`` 1 is right."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
        self.act, self.factor = torch.nn.Tanh(), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            raise NotImplementedError("no kernel for double")
        hidden = self.act(self.first(x.to(self.first.weight.dtype)))
        return self.second(hidden * self.factor)


def test_replay_where_float64_is_refused(tmp_path: Path) -> None:
    inputs = {"x": np.random.default_rng(0).normal(size=(8, 32, 16)).astype(np.float32)}
    reference = Subject(model=Stubborn())
    titles_of = {}
    for factor in (1.0, 1.5):
        path = tmp_path / f"{factor}.h5"
        record(Subject(model=Stubborn(factor).bfloat16()), path, inputs=inputs, floor=())
        titles_of[factor] = titles(replay_reference(reference, path))
    assert titles_of == {1.0: [], 1.5: ["glue in the model, between act and second"]}


def test_one_attention_implementation_against_another(
    reference: Path, checkpoint: Path, torch_model: Subject, tmp_path: Path
) -> None:
    other = as_subject(f"hf:{checkpoint}", attn_implementation="sdpa")
    path = tmp_path / "sdpa.h5"
    record(other, path, inputs=reference, floor=(), verify=False)
    for found in (replay_reference(torch_model, path), replay_port(reference, other)):
        assert found.faults == ()
        assert len(found.rows) > 70
