"""Free floors: the error of rounding alone, keyed by the reference's order, over real tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from firstdiff.tracer.comparison import ROWS, error_norms
from firstdiff.tracer.floor import measure_free_floor, record_floors
from firstdiff.tracer.selection import Selection
from firstdiff.tracer.torch import capture_torch
from firstdiff.traces import Header, TraceWriter, open_trace
from firstdiff.traces.errors import OptionError


def record(model, inputs, path, dtypes, selection=None):
    """A trace of ``model`` with its floors: (trace, header entry, notes)."""
    selection = selection or Selection()
    with TraceWriter(path, Header(framework="torch")) as writer:
        capture_torch(
            model,
            None,
            inputs,
            sink=lambda e: writer.write(e.key, e.value, dtype=e.dtype, same_as=e.same_as),
            selection=selection,
        )
        described, notes = record_floors(
            model, None, inputs, writer=writer, dtypes=dtypes, selection=selection
        )
        writer.finish()
    return open_trace(path), described, notes


@pytest.fixture
def linear() -> nn.Module:
    return nn.Linear(64, 32).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_against_numpy(dtype, linear, tmp_path):
    x = torch.randn(5, 64)
    trace, described, notes = record(linear, {"input": x}, tmp_path / "t.h5", (dtype,))
    assert described == {dtype: {"golden": "float64", "method": "free"}}
    assert notes == ()
    weight, bias = (p.detach().numpy().astype(np.float64) for p in linear.parameters())
    golden = x.numpy().astype(np.float64) @ weight.T + bias
    kind = getattr(torch, dtype)
    low = torch.nn.functional.linear(x.to(kind), linear.weight.to(kind), linear.bias.to(kind))
    with trace:
        rows = trace.table(f"floor/free/{dtype}")
        assert rows.dtype == ROWS
        (activation,) = (a for a in trace.activations if a.key.site == "output")
        (row,) = rows[rows["order"] == activation.order]
    assert row["error"] == pytest.approx(np.linalg.norm(low.detach().double().numpy() - golden))
    assert row["scale"] == pytest.approx(np.linalg.norm(golden))
    assert row["count"] == 160


def test_size_of_the_floors_of_a_transformer(tiny_qwen2, tokens, tmp_path):
    dtypes = ("float32", "bfloat16")
    trace, _, notes = record(tiny_qwen2, tokens, tmp_path / "t.h5", dtypes)
    assert notes == ()
    with trace:
        tables = [trace.table(f"floor/free/{d}") for d in dtypes]
        floats = {a.order: a for a in trace.activations if a.dtype == "float32"}
    for rows, roundoff in zip(tables, (2.0**-24, 2.0**-8), strict=True):
        assert set(rows["order"]) == set(floats)
        assert (np.diff(rows["order"]) > 0).all()
        some = rows[(rows["scale"] > 0) & (rows["error"] > 0)]
        assert len(some) > 50
        relative = some["error"] / some["scale"] / roundoff
        assert relative.min() > 0.05
        assert relative.max() < 100
    masks = [o for o, a in floats.items() if a.key.leaf == "attention_mask"]
    assert masks
    chosen = np.isin(tables[0]["order"], masks)
    assert not tables[0][chosen]["error"].any()


def test_padded_tokens_do_not_count(tiny_qwen2, tokens, tmp_path):
    trace, _, _ = record(tiny_qwen2, tokens, tmp_path / "t.h5", ("float32",))
    real = int(tokens["attention_mask"].sum())
    with trace:
        rows = {int(r["order"]): r for r in trace.table("floor/free/float32")}
        (norm,) = (
            a for a in trace.activations if a.key.path == "model.norm" and a.key.site == "output"
        )
    assert rows[norm.order]["count"] == real * 32


def test_scratch_is_removed_and_selection_kept(tiny_qwen2, tokens, tmp_path):
    selection = Selection(("*.mlp",), ("output",))
    trace, _, _ = record(tiny_qwen2, tokens, tmp_path / "t.h5", ("bfloat16",), selection)
    with trace:
        assert len(trace.activations) == len(trace.table("floor/free/bfloat16")) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


class OnlyFloat32(nn.Module):
    """Like a custom kernel: refuses float64."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        if x.dtype == torch.float64:
            raise NotImplementedError("no kernel for double")
        return self.inner(x)


def test_one_precision_up_where_float64_is_refused(tmp_path):
    trace, described, notes = record(
        OnlyFloat32(), {"x": torch.randn(3, 4)}, tmp_path / "t.h5", ("float32", "bfloat16")
    )
    assert described == {"bfloat16": {"golden": "float32", "method": "free"}}
    assert len(notes) == 2
    assert "no float64 golden run" in notes[0]
    assert "no kernel for double" in notes[0]
    assert notes[1].startswith("no noise floor of float32")
    with trace:
        rows = trace.table("floor/free/bfloat16")
        assert trace.table("floor/free/float32") is None
    assert (rows["error"] > 0).all()


def test_a_dtype_that_cannot_run_costs_only_its_floor(tmp_path):
    class NoBfloat16(nn.Linear):
        def forward(self, input):
            if input.dtype == torch.bfloat16:
                raise RuntimeError("no kernel for bfloat16")
            return super().forward(input)

    _, described, notes = record(
        NoBfloat16(4, 4), {"input": torch.randn(3, 4)}, tmp_path / "t.h5", ("float32", "bfloat16")
    )[0:3]
    assert list(described) == ["float32"]
    assert len(notes) == 1
    assert "no noise floor of bfloat16" in notes[0]


def test_unknown_dtype(linear, tmp_path):
    with pytest.raises(
        OptionError, match="floor int8: no such floor; choose from float32, bfloat16"
    ):
        measure_free_floor(
            linear, None, {}, orders=lambda _key: None, dtypes=("int8",), scratch_dir=tmp_path
        )


def test_inputs_and_model_are_left_alone(linear, tmp_path):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear

        def forward(self, x, seen):
            seen.append(1)
            return self.inner(x.mul_(2))

    x, seen = torch.randn(3, 64), []
    before = x.clone(), linear.weight.detach().clone()
    measured = measure_free_floor(
        InPlace(),
        None,
        {"x": x, "seen": seen},
        orders=lambda _key: 0,
        dtypes=("float32", "bfloat16"),
        scratch_dir=tmp_path,
    )
    assert set(measured.tables) == {"float32", "bfloat16"}
    assert torch.equal(x, before[0])
    assert torch.equal(linear.weight, before[1])
    assert seen == []


def test_norms_skip_what_is_no_rounding():
    value = np.array([[1.0, 2.0, np.inf, 4.0], [9.0, 9.0, 9.0, 9.0]], np.float32)
    golden = np.array([[1.5, np.nan, 3.0, -1e308], [0.0, 0.0, 0.0, 0.0]])
    error, scale, count = error_norms(value, golden, np.array([[True], [False]]))
    assert (error, scale, count) == (0.5, 1.5, 1)


def test_norms_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 7, 5, 3))
    mask = rng.random((7, 5, 1)) > 0.5
    whole = error_norms(a, b, mask)
    monkeypatch.setattr("firstdiff.tracer.comparison._PIECE", 4)
    assert error_norms(a, b, mask) == pytest.approx(whole)
    chosen = np.broadcast_to(mask, a.shape)
    assert whole[0] == pytest.approx(np.linalg.norm((a - b)[chosen]))
    assert whole[2] == chosen.sum()


def test_complex_norms():
    error, scale, count = error_norms(np.array([1 + 1j]), np.array([1 - 1j]), None)
    assert (error, scale, count) == (2.0, pytest.approx(2**0.5), 1)
