"""Digests of parameters through a trace: what an audit tells without the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.auditing import weights
from firstdiff.diff.weights.audit import audit
from firstdiff.diff.weights.table import (
    DIGESTS,
    FIBRES,
    parameter_table,
    parameter_tables,
    read_tables,
)
from firstdiff.models.families import family
from firstdiff.models.twins import Rules, parameters, twin
from firstdiff.traces import TraceWriter
from firstdiff.traces.errors import OptionError
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
    made = twin(source.values, source.kind, source.geometry, Rules(dtype=dtype, **rules))  # type: ignore[arg-type]  # one keyword of several
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
    tables = {DIGESTS: parameter_table(parameters(checkpoint))}
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
