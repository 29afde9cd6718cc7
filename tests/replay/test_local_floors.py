"""Forcing values into a torch model, and the local floors that a capture records with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from firstdiff.models.subject import Subject
from firstdiff.recording import record
from firstdiff.tracer.events import Event
from firstdiff.tracer.forcing import Forcer
from firstdiff.tracer.selection import Selection
from firstdiff.traces import open_trace
from firstdiff.traces.schema import Key
from firstdiff.traces.spread import CONDITIONING, from_tables, names, spreads, to_tables


class Residual(nn.Module):
    """A residual block whose local variable keeps the norm's input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.table = nn.Parameter(torch.ones(2, 4))
        self.echo = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x * 3
        residual = hidden
        return self.norm(hidden) + residual + self.echo(self.table)


class Float32Only(nn.Module):
    """Refuses float64."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is torch.float64:
            raise RuntimeError("no float64 kernel")
        return self.linear(x)


def forced(model: nn.Module, values: dict[Key, np.ndarray]) -> tuple[dict[Key, np.ndarray], Any]:
    seen: dict[Key, np.ndarray] = {}

    def sink(event: Event) -> None:
        seen[event.key] = event.value.copy()

    def given(key: Key) -> tuple[np.ndarray, str] | None:
        return (values[key], "float32") if key in values else None

    with torch.no_grad(), Forcer(model, sink, Selection(), given):
        out = model(torch.ones(2, 4))
    return seen, out


def test_an_input_is_recorded_then_replaced_where_the_caller_sees_it() -> None:
    model, key = Residual(), Key("norm", "input", "input")
    value = np.arange(8, dtype=np.float32).reshape(2, 4)
    seen, out = forced(model, {key: value})
    np.testing.assert_array_equal(seen[key], np.full((2, 4), 3, np.float32))
    normed = torch.nn.functional.layer_norm(torch.from_numpy(value), (4,))
    torch.testing.assert_close(out, normed + torch.from_numpy(value) + 1)


def test_a_parameter_is_never_written_to() -> None:
    model, key = Residual(), Key("echo", "input", "input")
    twice = np.full((2, 4), 2, np.float32)
    seen, _ = forced(model, {key: twice})
    assert bool((model.table == 1).all())
    np.testing.assert_array_equal(seen[Key("echo", "output")], twice)


def test_a_result_is_replaced_for_those_who_read_it() -> None:
    model, key = Residual(), Key("norm", "output")
    seen, out = forced(model, {key: np.zeros((2, 4), np.float32)})
    assert np.abs(seen[key]).max() < 1e-3
    torch.testing.assert_close(out, torch.full((2, 4), 4.0))


def test_a_value_of_another_shape_is_left_out() -> None:
    model, key = Residual(), Key("norm", "output")
    _, out = forced(model, {key: np.zeros((4, 2), np.float32)})
    torch.testing.assert_close(out, torch.full((2, 4), 4.0), atol=1e-3, rtol=0)


def test_perturbed_values_move_by_the_amplitude_up_or_down() -> None:
    value = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    seen: list[np.ndarray] = []
    echo = nn.Identity()
    forcer = Forcer(
        echo, lambda _event: None, Selection(), lambda _key: (value, "float32"), perturb=True
    )
    with torch.no_grad(), forcer:
        seen += [echo(torch.zeros(3, 5, 7, dtype=torch.float64)).numpy() for _ in range(2)]
    for found in seen:
        moves = (found / value.astype(np.float64) - 1) * 2**24
        np.testing.assert_allclose(np.abs(moves), 3, rtol=1e-6)
        assert 20 < np.count_nonzero(moves > 0) < value.size - 20
    assert not np.array_equal(*seen)


def test_the_references_trace_holds_floors_that_cost_little(reference: Path) -> None:
    with open_trace(reference) as trace:
        found = {
            dtype: from_tables(*(trace.table(name) for name in names(dtype)))
            for dtype in ("float32", "bfloat16", CONDITIONING)
        }
        by_path = {a.key.path: a for a in trace.activations if a.key.site == "output"}
        linear = by_path["model.layers.1.mlp.down_proj"]
        rms = linear.digest.rms
        tables = sum(
            trace.table(name).nbytes for name in trace.tables if "local" in name or "groups" in name
        )
        assert trace.header.extra["floors"]["float32"]["local"] == "float64"
        payload = sum({a.place: a.place.nbytes for a in trace.activations}.values())
    assert 1e-8 < found["float32"][linear.order].rms / rms < 1e-6
    assert 1e-3 < found["bfloat16"][linear.order].rms / rms < 1e-2
    assert 1e-8 < found[CONDITIONING][linear.order].rms / rms < 2e-6
    assert len(found["float32"][linear.order].rows) == 2 * 48
    assert len(found["float32"][linear.order].columns) == 64
    assert tables < 0.09 * payload


def test_a_capture_of_digests_has_no_local_floors(tmp_path: Path, torch_model: Subject) -> None:
    path = tmp_path / "digest.h5"
    inputs = {"input_ids": np.arange(1, 9)[None]}
    record(torch_model, path, inputs=inputs, digest=True, floor=("float32",), verify=False)
    with open_trace(path) as trace:
        assert not [name for name in trace.tables if "local" in name]


def test_one_precision_up_stands_for_a_float64_that_a_model_refuses(tmp_path: Path) -> None:
    path = tmp_path / "only.h5"
    subject = Subject(model=Float32Only())
    inputs = {"x": np.ones((2, 4), np.float32)}
    done = record(subject, path, inputs=inputs, floor=("float32", "bfloat16"))
    assert any("no float64 run with given values" in note for note in done.header.notes)
    assert done.header.extra["floors"]["bfloat16"]["local"] == "float32"
    with open_trace(path) as trace:
        assert "floor/local/bfloat16" in trace.tables
        assert "floor/local/float32" not in trace.tables  # its truth would be no finer


def test_spreads_by_whole_row_and_column() -> None:
    truth = np.ones((32, 16), np.float32)
    value = truth.copy()
    value[3] += 2
    value[:, 5] = np.nan
    valid = np.arange(32)[:, None] != 7
    error, scale = spreads(value, truth, valid)
    assert error.count == 31 * 15
    assert error.rows[3] == 2
    assert error.rows[4] == error.rows[7] == error.columns[5] == 0
    np.testing.assert_allclose(error.columns[0], np.sqrt(4 / 31))
    np.testing.assert_allclose(error.rms, np.sqrt(4 / 31))
    assert scale.rms == 1


def test_tables_of_spreads_round_trip_and_survive_damage() -> None:
    truth = np.ones((32, 16))
    error, _ = spreads(truth * 1.5, truth)
    nothing, _ = spreads(truth, truth)
    rows, groups = to_tables({4: error, 9: nothing})
    assert len(groups) == 32 + 16
    found = from_tables(rows, groups)
    np.testing.assert_allclose(found[4].columns, error.columns)
    assert found[9].rms == 0
    assert found[9].rows.size == 0
    assert from_tables(rows, groups[:5])[4].rows.size == 0
