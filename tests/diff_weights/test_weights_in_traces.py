"""Digests of parameters through a trace: what an audit tells without the values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from firstdiff.auditing import weights
from firstdiff.diff.weights.audit import audit
from firstdiff.diff.weights.match import Side
from firstdiff.diff.weights.table import (
    DIGESTS,
    FIBRES,
    parameter_tables,
    read_tables,
)
from firstdiff.models.families import family
from firstdiff.models.twins import Rules, parameters, twin
from firstdiff.traces import TraceWriter
from firstdiff.traces.errors import OptionError
from firstdiff.traces.parameters import Parameter
from firstdiff.traces.schema import Header

Values = dict[str, np.ndarray]


def trace(path: Path, tables: dict[str, np.ndarray]) -> Path:
    with TraceWriter(path, Header(framework="torch")) as writer:
        for name, rows in tables.items():
            writer.write_table(name, rows)
        return writer.finish()


def test_a_trace_is_audited_against_a_port(
    tmp_path: Path, checkpoint: Values, port: Values
) -> None:
    reference = trace(tmp_path / "ref.h5", parameter_tables(parameters(checkpoint)))
    assert weights(reference, parameters(port, "linen")).exit_code == 0
    name = "layers_0.self_attn.q_proj.kernel"
    port[name] = np.ascontiguousarray(port[name].T)
    (verdict,) = weights(reference, parameters(port, "linen")).wrong
    assert (verdict.finding, verdict.port) == ("not transposed", name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "rules",
    [{}, {"stack": 0}, {"qkv": "flat"}, {"qkv": "head-major", "stack": 1}, {"experts": "looped"}],
)
def test_two_traces_of_a_right_port(tmp_path: Path, rules: dict[str, object], dtype: str) -> None:
    source = family("mixtral")
    made = twin(source.values, source.kind, source.geometry, Rules(dtype=dtype, **rules))
    reference = trace(
        tmp_path / "ref.h5", parameter_tables(parameters(source.values, "torch", source.classes))
    )
    port = trace(tmp_path / "port.h5", parameter_tables(made.parameters()))
    result = weights(reference, port)
    assert result.exit_code == 0, [v.words for v in result.wrong]


def test_tables_keep_everything(checkpoint: Values) -> None:
    records = parameters(checkpoint, "torch")
    side = read_tables(parameter_tables(records).get)
    assert side is not None
    assert [(p.name, p.shape, p.dtype, p.framework, p.kind) for p in side.parameters] == [
        (p.name, p.shape, p.dtype, p.framework, p.kind) for p in records
    ]
    assert audit(side, side).exit_code == 0


def test_digests_without_fibres_still_match_whole_parameters(
    checkpoint: Values, port: Values
) -> None:
    tables = {DIGESTS: parameter_tables(parameters(checkpoint))[DIGESTS]}
    side = read_tables(tables.get)
    assert side is not None
    assert FIBRES not in tables
    result = audit(side, parameters(port, "linen"))
    assert result.exit_code == 0
    assert result.right == 38


def test_a_trace_without_digests_is_refused(tmp_path: Path) -> None:
    path = trace(tmp_path / "ref.h5", {})
    with pytest.raises(OptionError, match="holds no digests of parameters"):
        weights(path, path)


def small_kept(records: Sequence[Parameter]) -> Side:
    """What a capture of a larger model keeps: digests of all, values of vectors alone."""
    side = read_tables(parameter_tables(records).get)
    assert side is not None
    vectors = [p.size // max(p.shape, default=1) <= 8 or "bias" in p.leaf for p in records]
    kept = [
        one if small else p for one, small, p in zip(records, vectors, side.parameters, strict=True)
    ]
    return Side(tuple(kept), side.prints)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma"])
@pytest.mark.parametrize(
    "rules",
    [
        {"scale": True},
        {"scale": True, "stack": 0, "qkv": "flat", "names": "opaque"},
        {"scale": True, "rotary": True, "split_heads": True},
        {"rotary": True, "stack": 1},
        {"one_plus": True, "stack": 0},
        {"qkv": "head-major", "stack": 0, "dtype": "bfloat16"},
    ],
)
def test_digests_and_vectors_raise_no_false_alarm(name: str, rules: dict[str, object]) -> None:
    source = family(name)
    made = twin(source.values, source.kind, source.geometry, Rules(**rules))
    reference = small_kept(parameters(source.values, "torch", source.classes))
    result = audit(reference, small_kept(made.parameters()))
    assert result.exit_code == 0, [v.words for v in result.wrong]


def test_digests_find_a_factor_in_the_moments(checkpoint: Values, port: Values) -> None:
    name = "layers_0.self_attn.q_proj.kernel"
    for layer in range(3):
        port[f"layers_{layer}.self_attn.q_proj.kernel"] *= 0.25
    result = audit(
        small_kept(parameters(checkpoint, "torch")), small_kept(parameters(port, "linen"))
    )
    found = {v.port: v for v in result.notes}
    assert found[name].finding == "scaled"
    assert "0.25 = 1/sqrt(16) times the reference's" in found[name].words


def test_digests_tell_other_values_from_a_factor(checkpoint: Values, port: Values) -> None:
    name = "layers_1.mlp.up_proj.kernel"
    port[name] = np.random.default_rng(1).normal(0, 0.2, port[name].shape).astype(np.float32)
    result = audit(
        small_kept(parameters(checkpoint, "torch")), small_kept(parameters(port, "linen"))
    )
    assert [(v.finding, v.port) for v in result.wrong] == [("differs", name)]


def test_what_digests_cannot_tell_is_no_alarm(checkpoint: Values, port: Values) -> None:
    stacked = {k: v for k, v in port.items() if not k.startswith("layers_")}
    for leaf in {k.partition(".")[2] for k in port if k.startswith("layers_")}:
        stacked[f"layers.{leaf}"] = np.stack([port[f"layers_{n}.{leaf}"] for n in range(3)])
    stacked["layers.self_attn.q_proj.kernel"] = stacked["layers.self_attn.q_proj.kernel"] * 0.3
    result = audit(
        small_kept(parameters(checkpoint, "torch")), small_kept(parameters(stacked, "linen"))
    )
    assert result.exit_code == 0, [v.words for v in result.wrong]
    assert any("capture with --weights" in v.words for v in result.notes)
