"""Which activation is which: names, wrappers, aliases, leaves, and what is left over."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstdiff.diff.align import Alignment, align
from firstdiff.diff.mapping import read_map, substitute
from firstdiff.traces.errors import OptionError
from firstdiff.traces.schema import Activation, Key

if TYPE_CHECKING:
    from pathlib import Path

LEAVES = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
    "mlp",
]
NORMS = ["input_layernorm", "post_attention_layernorm"]
LLAMA = [
    "model.embed_tokens",
    *(f"model.layers.{n}.{leaf}" for n in range(3) for leaf in [*NORMS, *LEAVES, "self_attn"]),
    "model.norm",
    "lm_head",
]


DEFAULTS = ("output", "", "4,8", "float32")


def tensors(*entries: str | tuple[str, ...], method: str = "forward") -> list[Activation]:
    """Activations from `path`, or (path, site, leaf, shape, dtype)."""
    found = []
    for order, entry in enumerate(entries):
        given = (entry,) if isinstance(entry, str) else entry
        path, site, leaf, shape, dtype = (*given, *DEFAULTS[len(given) - 1 :])
        size = tuple(int(part) for part in shape.split(",")) if shape else ()
        found.append(Activation(order, Key(path, site, leaf, method), dtype, size))
    return found


def paths(alignment: Alignment) -> dict[str, str]:
    return {pair.reference.key.path: pair.port.key.path for pair in alignment.pairs}


def evidence(alignment: Alignment) -> set[str]:
    return {pair.evidence for pair in alignment.pairs}


def linen(path: str) -> str:
    return path.removeprefix("model.").replace("layers.", "layers_").replace(".", "/")


@pytest.mark.parametrize(
    "spell",
    [
        linen,
        lambda path: f"params.{path}",
        lambda path: f"Qwen2Model_0/{linen(path)}",
        lambda path: re.sub(r"layers\.(\d)", r"layers[\1]", path),
        lambda path: path.removeprefix("model.").replace("layers.", "block_"),
        lambda path: f"transformer/{linen(path).replace('layers_', 'h')}",
    ],
)
def test_every_module_finds_its_own(spell) -> None:
    found = align(tensors(*LLAMA), tensors(*map(spell, LLAMA), method="__call__"))
    assert paths(found) == {path: spell(path) for path in LLAMA}
    assert evidence(found) == {"name"}
    assert not found.unmatched


@given(st.permutations(LLAMA))
def test_the_port_may_run_in_any_order(order: list[str]) -> None:
    found = align(tensors(*LLAMA), tensors(*map(linen, order), method="__call__"))
    assert paths(found) == {path: linen(path) for path in LLAMA}
    assert [pair.reference.order for pair in found.pairs] == sorted(
        p.reference.order for p in found.pairs
    )


def test_meta_names_by_alias() -> None:
    names = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp": "feed_forward",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "self_attn": "attention",
    }  # fmt: skip
    port = {
        f"model.layers.{n}.{a}": f"transformer.h.{n}.{b}"
        for n in range(3)
        for a, b in names.items()
    }
    port |= {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f"}
    reference = [path for path in LLAMA if path in port]
    found = align(tensors(*reference), tensors(*port.values(), method="__call__"))
    assert paths(found) == port
    assert evidence(found) == {"alias"}


def test_the_second_norm_called_attn_norm() -> None:
    found = align(
        tensors("layers.0.input_layernorm", "layers.0.post_attention_layernorm"),
        tensors("layers.0.input_norm", "layers.0.attn_norm"),
    )
    assert paths(found)["layers.0.post_attention_layernorm"] == "layers.0.attn_norm"


def test_names_that_leave_two_choices_make_no_pair() -> None:
    gemma = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm"]
    found = align(
        tensors(*(f"layers.0.{name}" for name in gemma)),
        tensors(
            "layers.0.pre_attention_norm", "layers.0.post_attention_norm", "layers.0.pre_ffw_norm"
        ),
    )
    assert paths(found) == {"layers.0.input_layernorm": "layers.0.pre_attention_norm"}
    left = {u.activation.key.path for u in found.unmatched if u.side == "reference"}
    assert left == {"layers.0.post_attention_layernorm", "layers.0.pre_feedforward_layernorm"}


def test_wo_is_read_by_where_it_stands() -> None:
    found = align(
        tensors("layers.0.self_attn.o_proj", "layers.0.mlp.down_proj"),
        tensors("layers.0.mlp.wo", "layers.0.attention.wo"),
    )
    assert paths(found)["layers.0.mlp.down_proj"] == "layers.0.mlp.wo"


def test_an_only_candidate_of_equal_size() -> None:
    found = align(tensors("a.mlp", "a.mlp.act_fn"), tensors("a.mlp", "a.mlp.swish"))
    assert {p.reference.key.path: p.evidence for p in found.pairs} == {
        "a.mlp": "name",
        "a.mlp.act_fn": "only candidate",
    }
    other = align(
        tensors("a.mlp", "a.mlp.act_fn"), tensors("a.mlp", ("a.mlp.swish", "output", "", "3"))
    )
    assert len(other.pairs) == 1


def test_a_norm_of_the_encoder_is_none_of_the_decoder() -> None:
    found = align(tensors("a", "b", "encoder.norm"), tensors("a", "b", "decoder.norm"))
    assert set(paths(found)) == {"a", "b"}


def test_no_layer_takes_another_layers_place() -> None:
    reference = [f"layers.{n}.{part}" for n in range(4) for part in ("mlp", "act")]
    port = [path for path in reference if path not in ("layers.1.act", "layers.2.mlp")]
    found = align(tensors(*reference), tensors(*port))
    assert paths(found) == {path: path for path in port}


def test_the_root_of_a_port_without_head() -> None:
    reference = tensors(
        ("", "output", "logits", "4,50"), ("model", "output", "last_hidden_state", "4,8"), *LLAMA
    )
    whole = align(
        reference, tensors(("", "output", "", "4,50"), *map(linen, LLAMA), method="__call__")
    )
    assert paths(whole)[""] == ""
    headless = [linen(path) for path in LLAMA if path != "lm_head"]
    found = align(reference, tensors(("", "output", "", "4,8"), *headless, method="__call__"))
    assert paths(found)["model"] == ""
    assert "" not in paths(found)


def test_leaves_pair_by_name_then_alone_then_by_position() -> None:
    reference = tensors(
        ("attn", "input", "hidden_states", "2,8"), ("attn", "input", "position_embeddings.0", "4"),
        ("attn", "input", "position_embeddings.1", "4"), ("attn", "output", "0", "2,8"),
        ("norm", "input", "hidden_states"),
    )  # fmt: skip
    port = tensors(
        ("attn", "input", "cos", "4"), ("attn", "input", "hidden_states", "2,8"), ("attn", "input", "sin", "4"),
        ("attn", "output", "", "2,8"), ("norm", "input", "x"), method="__call__",
    )  # fmt: skip
    found = align(reference, port)
    made = {
        (p.reference.key.path, p.reference.key.leaf): (p.port.key.leaf, p.leaf_evidence)
        for p in found.pairs
    }
    assert made == {
        ("attn", "hidden_states"): ("hidden_states", "name"),
        ("attn", "position_embeddings.0"): ("cos", "position"),
        ("attn", "position_embeddings.1"): ("sin", "position"),
        ("attn", "0"): ("", "single"),
        ("norm", "hidden_states"): ("x", "single"),
    }


def test_calls_and_steps_keep_apart() -> None:
    def called(*calls: tuple[int, int]) -> list[Activation]:
        return [
            Activation(n, Key("norm", "output", call=c, step=s), "float32", (2,))
            for n, (c, s) in enumerate(calls)
        ]

    found = align(called((0, 0), (1, 0), (0, 1)), called((0, 0), (0, 1)))
    assert [(p.reference.key.call, p.reference.key.step) for p in found.pairs] == [(0, 0), (0, 1)]
    assert [u.activation.key.call for u in found.unmatched] == [1]


def test_other_methods_are_other_modules() -> None:
    reference = tensors("embed", method="forward") + tensors("embed", method="attend")
    port = tensors("embed", method="__call__")
    found = align(reference, port)
    assert [pair.reference.key.method for pair in found.pairs] == ["forward"]


def test_a_tied_head() -> None:
    reference = tensors("embed_tokens", ("lm_head", "output", "", "4,50"))
    port = tensors("embed_tokens") + tensors(
        ("embed_tokens", "output", "", "4,50"), method="attend"
    )
    found = align(reference, port)
    assert paths(found) == {"embed_tokens": "embed_tokens", "lm_head": "embed_tokens"}
    assert [pair.evidence for pair in found.pairs] == ["name", "alias"]
    assert len(align(port, reference).pairs) == 2


def test_results_of_other_names_and_sizes_are_no_pair() -> None:
    found = align(
        tensors(("model", "output", "last_hidden_state", "4,8")),
        tensors(("model", "output", "logits", "4,50")),
    )
    assert [u.side for u in found.unmatched] == ["reference", "port"]


def test_what_is_left_over_has_its_best_candidate() -> None:
    found = align(
        tensors(*LLAMA, "model.layers.0.self_attn.rotary_fn"),
        tensors(*map(linen, LLAMA), "layers_0/apply_rotary", "layers_1/dropout"),
    )
    sides = [(u.side, u.activation.key.path) for u in found.unmatched]
    assert sides == [
        ("reference", "model.layers.0.self_attn.rotary_fn"),
        ("port", "layers_0/apply_rotary"),
        ("port", "layers_1/dropout"),
    ]
    best = found.unmatched[0].candidate
    assert best is not None
    assert best.key.path == "layers_0/apply_rotary"
    assert 0.35 < found.unmatched[0].likeness < 1


def test_a_map_overrides_names() -> None:
    reference, port = (
        tensors("layers.0.a", "layers.1.a", "b"),
        tensors("blocks.0.x", "blocks.1.x", "layers.0.a", "b"),
    )
    found = align(reference, port, path_map=read_map({"layers.*.a": "blocks.*.x"}))
    assert paths(found) == {"layers.0.a": "blocks.0.x", "layers.1.a": "blocks.1.x", "b": "b"}
    assert [p.evidence for p in found.pairs] == ["map", "map", "name"]


def test_ignored_modules_are_in_no_row() -> None:
    found = align(
        tensors("a", "rotary.x"),
        tensors("a", "rotary.y"),
        path_map=read_map({"ignore": ["rotary.*"]}),
    )
    assert (len(found.pairs), found.unmatched, found.ignored) == (1, (), 2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"layer.*.a": "a.*"},
            "map: entry 'layer.*.a' = 'a.*' is stale: no module of the reference is called 'layer.*.a'; "
            "correct it or take it out",
        ),
        (
            {"a": "z"},
            "map: entry 'a' = 'z' is stale: no module of the port is called 'z'; correct it or take it out",
        ),
        (
            {"ignore": ["z*"]},
            "map: ignore entry 'z*' is stale: it matches no module of either side; correct it or take it out",
        ),
    ],
)
def test_a_stale_entry_is_an_error_by_name(table: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        align(tensors("a"), tensors("a"), path_map=read_map(table))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b = 'c'", "entry 'a' is no path but a dict; quote dotted paths"),
        (
            "'a.*' = 'c'",
            "entry 'a.*' = 'c' has 1 and 0 stars; each star stands for the same text on both sides",
        ),
        ("ignore = 'x'", 'ignore is no list of globs; write ignore = ["*.rotary_emb"]'),
        ("= 3", "not TOML ("),
    ],
)
def test_a_map_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        read_map(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_map(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"--map .*none.toml: cannot be read \(No such file or directory\)"
    ):
        read_map(tmp_path / "none.toml")


def test_each_star_stands_for_the_same_text() -> None:
    assert substitute("a.*.b.*", "x.*-*", "a.1.b.2") == "x.1-2"
    assert substitute("a.*", "x.*", "b.1") is None
