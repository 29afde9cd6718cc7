"""Losses of precision are named by class, each simulated in a port of its own; what cannot be applied is a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from firstdiff.diff import Diff
from firstdiff.diff.explain import attention_changes, linear, norms, rotary, signatures
from firstdiff.diff.explain.precision import precision_class
from firstdiff.diff.explain.rounding import round_to
from firstdiff.traces import Header, Key, TraceWriter


def bfloat16(values: np.ndarray) -> np.ndarray:
    return round_to(values, "bfloat16")


def tf32(values: np.ndarray) -> np.ndarray:
    return round_to(values, "TF32")


def halves(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Two devices, each with half of the inputs, that exchange bfloat16."""
    middle = len(kernel) // 2
    return bfloat16(x[..., :middle] @ kernel[:middle]) + bfloat16(x[..., middle:] @ kernel[middle:])


PORTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "bfloat16 matrix products": lambda x, kernel: bfloat16(x) @ bfloat16(kernel),
    "TF32 matrix products": lambda x, kernel: tf32(x) @ tf32(kernel),
    "bfloat16 weights": lambda x, kernel: x @ bfloat16(kernel),
    "bfloat16 results": lambda x, kernel: bfloat16(x @ kernel),
    "bfloat16 partial sums": halves,
}
"""Linear layers that compute less precisely, by the class that is the right answer."""


def linear_layer(pair: Any, features: int, port: Callable[..., np.ndarray], **kinds: str) -> Diff:
    """A comparison of ``port``'s linear layer with a right one, of 96 tokens."""
    rng = np.random.default_rng(features)
    x = rng.standard_normal((2, 48, features)).astype(np.float32).astype(np.float64)
    kernel = rng.standard_normal((features, 40)) / np.sqrt(features)
    kernel = kernel.astype(np.float32).astype(np.float64)
    given = ("layers.0.up_proj", "input", "input", x)
    out = ("layers.0.up_proj", "output", "")
    found: Diff = pair([given, (*out, x @ kernel)], [given, (*out, port(x, kernel))], **kinds)
    return found


@pytest.mark.parametrize("name", PORTS)
def test_a_linear_layer_that_computes_less_precisely(name: str, pair: Any) -> None:
    found = linear_layer(pair, 48, PORTS[name])
    assert found.explanation is not None
    assert (found.explanation.cause, found.explanation.precision) == ("low precision", name)
    assert found.explanation.sentence.startswith(f"low precision: {name}. ")


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("norm_bfloat16", "norm without upcast"),
        ("norm_float16", "norm without upcast"),
        ("softmax_bfloat16", "softmax without upcast"),
        ("attention_bfloat16", "bfloat16 matrix products"),
        ("gate_bfloat16", "bfloat16 weights"),
        ("gate_int8", "int8 weights"),
        ("rotary_bfloat16", "bfloat16 rotary tables"),
    ],
)
def test_a_seeded_loss_of_precision(fault: str, name: str, compared: Any) -> None:
    found = compared(fault)
    assert found.explanation.cause == "low precision"
    assert found.explanation.precision == name


def test_other_causes_have_no_class(compared: Any) -> None:
    assert compared("rotary_interleaved").explanation.precision == ""
    assert compared(None).explanation is None


@pytest.fixture
def wide(tmp_path: Any) -> Callable[..., Diff]:
    """Like ``pair``, with modules of the class `Linear`."""

    def compare(ours: list[Any], theirs: list[Any]) -> Diff:
        from firstdiff.diff import diff

        paths = []
        for name, entries in (("reference", ours), ("port", theirs)):
            with TraceWriter(tmp_path / f"{name}.h5", Header("torch", dtype="float32")) as writer:
                writer.write_input("input_ids", np.arange(96).reshape(2, 48), dtype="int64")
                for path, site, leaf, value in entries:
                    stored = np.ascontiguousarray(value, dtype=np.float32)
                    key = Key(path, site, leaf)
                    writer.write(key, stored, dtype="float32", class_name="Linear")
                paths.append(writer.finish())
        return diff(*paths)

    return compare


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bfloat16 matrix products", "a product with bfloat16 operands; matrix products round"),
        ("TF32 matrix products", "a product with TF32 or float16 operands; matrix products round"),
    ],
)
def test_where_the_kernel_is_not_known_the_size_is_a_hint(name: str, words: str, wide: Any) -> None:
    found = linear_layer(wide, 512, PORTS[name])
    assert found.explanation is not None
    assert found.explanation.cause is None
    assert found.explanation.sentence.startswith("not certain. ")
    assert words in found.explanation.sentence


@pytest.mark.parametrize(
    "port",
    [
        lambda x, kernel: x @ kernel + 2e-2 * np.random.default_rng(0).standard_normal((2, 48, 40)),
        lambda x, kernel: (x @ kernel) * np.where(np.arange(40) < 20, 1.0, 1.004),
        lambda x, kernel: x @ (kernel * (1 + 0.05 * np.eye(len(kernel))[:, :40])),
    ],
    ids=["too large", "in half of the channels", "other weights"],
)
def test_other_errors_are_not_taken_for_rounded_operands(port: Any, wide: Any) -> None:
    found = linear_layer(wide, 512, port)
    assert found.explanation is not None
    assert "operands" not in found.explanation.sentence
    assert found.explanation.precision == ""


def test_every_loss_of_precision_has_a_class() -> None:
    tables = (attention_changes, linear, norms, rotary, signatures)
    rows = [change for table in tables for change in table.CHANGES]
    rows += rotary.PRECISION
    for change in rows:
        if change.precision:
            name, remedy = precision_class(change.words)
            assert name, change.words
            assert remedy, change.words
    assert precision_class("leaving out the bias") == ("", "")
