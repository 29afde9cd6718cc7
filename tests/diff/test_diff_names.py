"""Module paths in one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstdiff.diff.aliases import readings
from firstdiff.diff.names import normalise, similarity, split, wrapper_prefix

NAMES = st.sampled_from(["self_attn", "q_proj", "mlp", "act_fn", "norm", "wte", "expert"])
PATHS = st.lists(st.tuples(NAMES, st.integers(0, 40)), min_size=1, max_size=4)


@pytest.mark.parametrize(
    "spelling",
    [
        "layers.3.self_attn.q_proj",
        "layers_3/self_attn/q_proj",
        "layers[3].self_attn.q_proj",
        "layers['3'].self_attn.q_proj",
        "layer3/self_attn/q_proj",
        "block_3.self_attn.q_proj",
        "h3_self_attn/q_proj",
        "h.3.self_attn.q_proj",
        "Layers_3.self_attn.q_proj",
    ],
)
def test_spellings_of_one_module(spelling: str) -> None:
    assert normalise(spelling) == ("layers", "3", "self_attn", "q_proj")


def test_the_root_has_no_segments() -> None:
    assert split("") == ()


def test_indices_keep_modules_apart() -> None:
    assert normalise("layers.1.norm") != normalise("layers.11.norm")
    assert normalise("w1") != normalise("w2")


@given(PATHS)
def test_separators_and_index_styles_do_not_matter(path: list[tuple[str, int]]) -> None:
    dotted = ".".join(f"{name}.{index}" for name, index in path)
    assert split(dotted) == split("/".join(f"{name}_{index}" for name, index in path))
    assert split(dotted) == split(".".join(f"{name}[{index}]" for name, index in path))
    assert split(dotted) == split(".".join(split(dotted)))


def test_a_name_in_two_groups_is_read_by_where_it_stands() -> None:
    attention = readings("layers.0.attention.wo")
    assert {reading[-1] for reading in attention} == {"attention.out"}
    assert {reading[-1] for reading in readings("layers.0.mlp.wo")} == {"mlp.down"}
    assert {reading[-1] for reading in readings("layers.0.attn_norm")} == {"norm_1", "norm_2"}


def test_several_segments_are_one_role() -> None:
    assert readings("layers.0.attention.attention.query") == readings("layers.0.attn.wq")


def test_similar_paths_are_more_alike() -> None:
    near = similarity("model.layers.0.mlp.act_fn", "layers_0/mlp/act")
    assert near > similarity("model.layers.0.mlp.act_fn", "layers_0/self_attn/q_proj")
    assert similarity("a.b", "a/b") == 1.0


def test_people_leave_out_the_wrapper() -> None:
    layers = [f"model.layers.{n}.mlp" for n in range(9)]
    assert wrapper_prefix(["", "model", "lm_head", *layers]) == "model."


def test_a_stack_is_no_wrapper() -> None:
    assert wrapper_prefix([f"layers.{n}.mlp" for n in range(9)]) == ""


def test_a_wrapper_stays_where_names_would_clash() -> None:
    assert wrapper_prefix(["model.a", "model.b", "model.c", "model.d", "model.norm", "norm"]) == ""
    assert wrapper_prefix(["one.x", "one.y", "two.x", "two.y"]) == ""
