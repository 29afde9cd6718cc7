"""The main job end to end: reference in PyTorch, a faulty port and the right one in JAX, two traces, the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firstdiff
from firstdiff.models import qwen2
from firstdiff.models.fault import Fault
from firstdiff.traces import open_trace

Cli = Callable[..., Any]
ANSWER = (
    "First divergence: inside layers.0.self_attn, after q_proj, k_proj, v_proj (agree), "
    "before o_proj (its input differs)."
)


def words(text: str) -> str:
    """``text`` without its line breaks."""
    return " ".join(text.split())


def test_the_demo_finds_the_fault_and_says_that_the_right_port_agrees(
    firstdiff_cli: Cli, tmp_path: Path
) -> None:
    done = firstdiff_cli("demo", "--keep", tmp_path)
    assert done.code == 0, done.err
    recorded, faulty, right = done.out.split("A linen port of it: ")
    assert "noise floor (float32, bfloat16)" in words(recorded)
    assert ANSWER in words(faulty)
    assert "the first real token agrees, every later one is wrong" in words(faulty)
    assert "Likely cause: rotary pairing" in words(faulty)
    assert "The port agrees with the reference: 77 activations, worst error / floor" in words(right)
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == [
        "port-rotary_interleaved.h5",
        "port.h5",
        "ref.h5",
    ]


def test_the_demo_takes_the_model_that_has_the_fault(firstdiff_cli: Cli, tmp_path: Path) -> None:
    done = firstdiff_cli("demo", "--fault", "bert_gelu_tanh", "--keep", tmp_path)
    assert done.code == 0, done.err
    recorded, faulty, right = words(done.out).split("A linen port of it: ")
    assert recorded.startswith("A tiny BERT in PyTorch, recorded once:")
    assert "Likely cause: activation function" in faulty
    assert "The port agrees with the reference" in right
    narrow = firstdiff_cli("demo", "--fault", "bert_gelu_tanh", "--dtype", "bfloat16")
    assert narrow.code == 2
    assert "dtype 'bfloat16': the port of BERT computes in float32." in words(narrow.err)


def test_a_mistyped_fault_is_answered_by_the_closest_names(firstdiff_cli: Cli) -> None:
    done = firstdiff_cli("demo", "--fault", "rotary_interleave")
    assert done.code == 2
    said = words(done.err)
    assert "fault 'rotary_interleave': no such fault; closest: rotary_interleaved" in said
    assert said.endswith("firstdiff demo --list lists all.")
    assert len(said) < 200
    unlike = firstdiff_cli("demo", "--fault", "qqqqqq")
    assert "no such fault; firstdiff demo --list lists all." in words(unlike.err)


def test_the_demo_lists_its_faults(firstdiff_cli: Cli) -> None:
    from firstdiff.models.faults import every_fault

    done = firstdiff_cli("demo", "--list")
    lines = done.out.splitlines()
    assert lines[0] == "Qwen2: 85 faults"
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(every_fault())
    found = json.loads(firstdiff_cli("demo", "--list", "--json").out)
    assert found["GPT-2"]["gpt2_qkv_order"] == every_fault()["gpt2_qkv_order"].sentence


def test_a_framework_without_the_port_is_refused_before_anything_is_captured(
    firstdiff_cli: Cli, tmp_path: Path
) -> None:
    done = firstdiff_cli(
        "demo", "--fault", "gpt2_qkv_order", "--framework", "nnx", "--keep", tmp_path
    )
    assert done.code == 2
    assert "framework 'nnx': GPT-2 has ports in linen." in words(done.err)
    assert list(tmp_path.iterdir()) == []
    other = firstdiff_cli("demo", "--framework", "flux", "--keep", tmp_path)
    assert "framework 'flux': Qwen2 has ports in linen, nnx," in words(other.err)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_as_json(firstdiff_cli: Cli) -> None:
    done = firstdiff_cli("demo", "--json")
    both = json.loads(done.out)
    assert both["faulty"]["finding"]["where"] == "between"
    assert both["right"]["finding"] is None


@pytest.mark.parametrize("framework", ["nnx", "equinox", "haiku", "keras"])
def test_every_framework_s_port_is_captured_and_judged(
    framework: str, checkpoint: Path, reference: Path
) -> None:
    faulty = firstdiff.check(
        reference, qwen2.subject(framework, checkpoint, fault="rotary_interleaved")
    )
    assert faulty.summary == ANSWER
    right = firstdiff.check(reference, qwen2.subject(framework, checkpoint))
    assert (right.exit_code, right.counts.diverge) == (0, 0)
    assert right.counts.pairs >= 75


@pytest.mark.parametrize("scan", [True, False])
def test_a_port_of_plain_functions_is_judged_like_modules(
    scan: bool, checkpoint: Path, reference: Path
) -> None:
    """Aligned by value; behind the fault by place; other faults by planting values where functions return."""
    fault = "rotary_interleaved"
    faulty = firstdiff.check(
        reference, qwen2.subject("function", checkpoint, fault=fault, scan=scan)
    )
    assert faulty.summary == ANSWER
    assert faulty.cause.startswith("rotary pairing")
    assert faulty.other_faults == "glue in layers.1.self_attn, between q/k/v_proj and o_proj."
    right = firstdiff.check(reference, qwen2.subject("function", checkpoint, scan=scan))
    assert right.summary.startswith("The port agrees with the reference: 86 activations")
    assert "neighbours" not in right.counts.evidence
    assert right.counts.missing == 0


def test_scan_stacked_layers_are_split_into_the_reference_s_names(
    checkpoint: Path, reference: Path
) -> None:
    result = firstdiff.check(reference, qwen2.subject("linen", checkpoint, scan=True))
    assert result.exit_code == 0
    names = {row.name for row in result.rows if row.side == "both"}
    assert {"layers.0.mlp.down_proj", "layers.1.mlp.down_proj"} <= names


@pytest.mark.parametrize("port", ["linen", "function"])
def test_a_fault_in_one_layer_of_a_scanned_stack_is_placed_in_that_layer(
    port: str, checkpoint: Path, reference: Path
) -> None:
    def negative(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        return -read(name) if name == "model.layers.1.mlp.down_proj.weight" else read(name)

    down = "layers.1.mlp.down_proj"
    fault = Fault("negative", "A negative kernel.", "scale", down, down, weights=negative)
    subject = qwen2.subject(port, checkpoint, fault=fault, scan=True)
    result = firstdiff.check(reference, subject, replay=False)
    assert result.first is not None
    assert (result.first.name, result.first.key.site) == (down, "output")


def test_the_two_traces_are_compared_without_either_framework(
    reference: Path, port_trace: Path, tmp_path: Path, firstdiff_cli: Cli
) -> None:
    table = tmp_path / "rows.parquet"
    done = firstdiff_cli(
        "diff", reference, port_trace, "--parquet", table, "--html", tmp_path / "r.html"
    )
    assert done.code == 0
    import pandas as pd

    frame = pd.read_parquet(table)
    assert (frame["verdict"] == "agrees").sum() == 77
    page = (tmp_path / "r.html").read_text()
    HTMLParser().feed(page)
    assert "The port agrees with the reference: 77 activations" in page
    assert page.count("<tr class='OK") == 77


def test_an_html_report_escapes_what_it_shows(
    reference: Path, port_trace: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    result = replace(firstdiff.diff(reference, port_trace), notes=("<script>alert(1)</script>",))
    page = result.to_html(tmp_path / "r.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_reference_can_be_recorded_around_code_of_ones_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    ids = torch.tensor([[5, 6, 7]])
    with firstdiff.capture(tmp_path / "block.h5", model), torch.no_grad():
        expected = model(input_ids=ids).logits
        model(input_ids=ids + 1)
    with open_trace(tmp_path / "block.h5") as trace:
        np.testing.assert_array_equal(trace.input("input_ids"), ids.numpy())
        logits = [a for a in trace.activations if a.key.path == "" and a.key.leaf == "logits"]
        assert [a.key.step for a in logits] == [0, 1]
        np.testing.assert_array_equal(trace.values(logits[0]), expected.numpy())


def test_capture_says_what_it_recorded(
    checkpoint: Path, tmp_path: Path, firstdiff_cli: Cli
) -> None:
    path = tmp_path / "t.h5"
    arguments = [
        "capture",
        f"hf:{checkpoint}",
        "-o",
        path,
        "--prompt",
        "hello there",
        "--no-floor",
        "--json",
    ]
    done = firstdiff_cli(*arguments, "--select", "*.mlp", "--outputs-only", "--digest")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["activations"] == 2
    assert told["header"]["output_check"]["bitwise"] is True
    assert told["header"]["model"]["type"] == "qwen2"
    with open_trace(path) as trace:
        assert [a.key.path for a in trace.activations] == [
            "model.layers.0.mlp",
            "model.layers.1.mlp",
        ]
        assert all(a.place is None and a.digest is not None for a in trace.activations)
        assert "input_ids" in trace.inputs


def test_a_jax_function_of_its_inputs_is_a_subject(tmp_path: Path) -> None:
    import jax.numpy as jnp

    def double(x: Any) -> Any:
        return firstdiff.tap("doubled", x * 2) + 1

    done = firstdiff.capture(double, tmp_path / "f.h5", inputs={"x": jnp.arange(3.0)})
    assert done.header.framework == "jax"
    with open_trace(tmp_path / "f.h5") as trace:
        (found,) = [a for a in trace.activations if a.key.path.endswith("doubled")]
        np.testing.assert_array_equal(trace.values(found), [0, 2, 4])


def test_a_wrong_value_is_not_healed_by_a_reader_that_takes_only_its_dtype(
    checkpoint: Path, reference: Path
) -> None:
    port = qwen2.subject("linen", checkpoint, fault="embedding_scaled")
    result = firstdiff.check(reference, port, replay=False)
    assert result.summary == (
        "First divergence: inside embed_tokens (Embedding): its input agrees, its result differs."
    )


@pytest.mark.parametrize(
    ("after", "code", "said"),
    [
        (lambda logits: logits, 0, "The port agrees with the reference: 77 activations"),
        (
            lambda logits: {"logits": logits},
            0,
            "The port agrees with the reference: 77 activations",
        ),
        (
            lambda logits: logits * 2,
            1,
            "inside the model (Qwen2ForCausalLM), after lm_head (agrees)",
        ),
        (lambda logits: logits[:, -1], 1, "has another shape: (2,48,320) against (2,320)"),
        (lambda _logits: None, 0, "but the model's result (logits) has no counterpart"),
    ],
)
def test_what_the_call_does_after_the_model_is_judged_too(
    after: Callable[[Any], Any], code: int, said: str, checkpoint: Path, reference: Path
) -> None:
    from dataclasses import replace

    right = qwen2.subject("linen", checkpoint)
    assert right.call is not None
    plain = right.call

    def call(model: Any, input_ids: Any, attention_mask: Any) -> Any:
        return after(plain(model, input_ids=input_ids, attention_mask=attention_mask).logits)

    result = firstdiff.check(reference, replace(right, call=call), replay=False, verify=False)
    assert result.exit_code == code
    assert said in result.summary
