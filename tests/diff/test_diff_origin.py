"""Inherited and added error: what is told apart, from which sources, and what is not known."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from firstdiff.diff import diff
from firstdiff.traces import Header, Key, TraceWriter
from firstdiff.traces.spread import CONDITIONING, Spread, names, to_tables

if TYPE_CHECKING:
    from pathlib import Path

    Maker = Any

U = 2.0**-24
WIDTH = 256
NONE = np.zeros(0)


def rows_of(result: Any) -> dict[tuple[str, str], Any]:
    return {(row.name, row.key.site): row for row in result.rows}


@pytest.fixture
def layer(tmp_path: Path) -> Any:
    """A linear layer that doubles relative errors, told by its conditioning; what comes out when errors go in."""
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(64, WIDTH)).astype(np.float32) for _ in range(2))
    noise = [random.normal(size=x.shape).astype(np.float32) for _ in range(2)]
    moved = U * sqrt(WIDTH) / 2  # of a sum of 256 products

    def write(name: str, x: np.ndarray, y: np.ndarray, local: bool) -> Path:
        path = tmp_path / name
        header = Header("torch", dtype="float32")
        with TraceWriter(path, header) as writer:
            writer.write_input("ids", np.arange(64), dtype="int64")
            for site, value in (("input", x), ("output", y)):
                key = Key("layer", site)
                writer.write(key, value, dtype="float32", class_name="Linear")
            size = float(np.sqrt(np.mean(np.square(y, dtype=np.float64))))
            tables = {
                "float32": {0: Spread(0.0, x.size, NONE, NONE), 1: Spread(U * size, y.size, NONE, NONE)},
                CONDITIONING: {1: Spread(2 * moved * size, y.size, NONE, NONE)},
            }  # fmt: skip
            for kind, found in tables.items() if local else ():
                for table, rows in zip(names(kind), to_tables(found), strict=True):
                    writer.write_table(table, rows)
            writer.finish()
        return path

    def compare(wrong_in: float, wrong_out: float, *, local: bool = True) -> dict[Any, Any]:
        reference = write("ref.h5", x, y, local)
        port = write(
            "port.h5", x * (1 + wrong_in * noise[0]), y * (1 + wrong_out * noise[1]), False
        )
        return rows_of(diff(reference, port))

    return compare


def test_an_error_that_the_layer_only_amplifies_is_inherited(layer: Any) -> None:
    origin = layer(1e-3, 2e-3)["layer", "output"].origin
    assert origin.basis == "conditioning"
    assert origin.gain == pytest.approx(2, rel=0.01)
    assert origin.inherited == pytest.approx(2e-3, rel=0.1)
    assert origin.score < 1
    assert origin.source == "layer input"


def test_an_error_beyond_what_came_in_is_added(layer: Any) -> None:
    origin = layer(1e-5, 1e-2)["layer", "output"].origin
    assert origin.inherited == pytest.approx(2e-5, rel=0.1)
    assert origin.added == pytest.approx(1e-2, rel=0.1)
    assert origin.score > 100


def test_nothing_inherited_means_that_all_was_added(layer: Any) -> None:
    row = layer(0.0, 1e-4)["layer", "output"]
    assert (row.origin.inherited, row.origin.source) == (0.0, "")
    assert row.origin.added == row.measurement.relative_l2


def test_without_conditioning_the_gain_is_said_to_be_unknown(layer: Any) -> None:
    origin = layer(1e-3, 2e-3, local=False)["layer", "output"].origin
    assert (origin.basis, origin.gain, origin.score) == ("gain unknown", 1.0, None)
    assert origin.added == pytest.approx(sqrt(3) * 1e-3, rel=0.15)


def test_a_value_that_is_passed_on_adds_nothing(maker: Maker) -> None:
    rows = {
        (r.name, r.key.site, r.key.leaf): r
        for r in diff(maker.reference(), maker.port("bias")).rows
    }
    passed = rows["layers.0.self_attn", "output", ""].origin
    assert (passed.basis, passed.added) == ("same value", 0.0)
    assert passed.source == "layers.0.self_attn.o_proj output"
    made = rows["layers.0.self_attn.v_proj", "output", ""]
    assert made.origin.added == pytest.approx(made.measurement.relative_l2)


def test_glue_inherits_from_what_was_made_around_it(maker: Maker) -> None:
    rows = {
        (r.name, r.key.site, r.key.leaf): r
        for r in diff(maker.reference(), maker.port("bias")).rows
    }
    mixed = rows["layers.0.self_attn.o_proj", "input", "input"].origin
    assert mixed.source == "layers.0.self_attn.v_proj output"
    stream = rows["layers.0.post_attention_layernorm", "input", "hidden_states"].origin
    assert stream.source == "layers.0.self_attn output"
    result = rows["layers.0", "output", ""].origin
    assert result.source in (
        "layers.0.mlp output",
        "layers.0.mlp.down_proj output",
        "layers.0.post_attention_layernorm input hidden_states",
    )


def test_every_measured_float_has_an_origin_and_nothing_else(maker: Maker) -> None:
    for row in diff(maker.reference(), maker.port("nan")).rows:
        measured = row.measurement is not None and row.verdict.kind != "non-finite"
        floats = row.activation.dtype == "float32"
        assert (row.origin is not None) == (measured and floats)
