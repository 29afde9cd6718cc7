"""Floors cost few runs and little memory, and their figures do not depend on how they were saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from firstdiff.models.subject import Subject
from firstdiff.recording import record
from firstdiff.tracer import conversion
from firstdiff.tracer import floors as floors_module
from firstdiff.tracer.forcing import Forcer
from firstdiff.tracer.golden import in_precision, run_in
from firstdiff.tracer.selection import Selection
from firstdiff.traces import open_trace
from firstdiff.traces.schema import Key
from firstdiff.traces.spread import (
    CONDITIONING,
    error_spread,
    from_tables,
    names,
    no_error,
    spreads,
)


class Uses(nn.Module):
    """Uses parameters in every way but calling the module that owns them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.recurrent = nn.LSTM(16, 16)
        self.convolution = nn.Conv1d(16, 16, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(16))
        self.experts = nn.Parameter(torch.randn(3, 16, 16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.attention(x, x, x)[0]
        x = self.recurrent(x)[0] * self.scale.to(x.dtype)
        x = F.linear(x, self.experts[1]) + x @ self.experts.sum(0).T
        x = torch.cat([self.scale.expand(*x.shape[:-2], 1, 16), self.convolution(x.mT).mT], -2)
        assert x.dtype == self.scale.dtype == next(self.parameters()).dtype
        return F.linear(x, self.embed.weight)


@pytest.mark.parametrize("piece", [1 << 20, 40])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_converted_on_use_is_the_same_as_a_converted_copy(dtype, piece, monkeypatch):
    monkeypatch.setattr(conversion, "_PIECE", piece)
    model, ids = Uses().eval(), torch.arange(6).reshape(2, 3)
    weight = model.embed.weight
    with in_precision(model, dtype):
        whole = model(ids)
    with in_precision(model, dtype, sparing=True):
        assert model.embed.weight is weight
        assert model.embed.weight.shape == (7, 16)
        sparing = model(ids)
    assert sparing.dtype == whole.dtype == getattr(torch, dtype)
    slack = 8 * torch.finfo(whole.dtype).eps
    torch.testing.assert_close(sparing, whole, rtol=slack, atol=slack * float(whole.abs().max()))
    assert weight.dtype is torch.float32


def test_values_beyond_the_range_are_cut_as_in_a_copy():
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e6, 1.0], [float("inf"), -1e6]]))
    with in_precision(model, "float16"):
        whole = model(torch.eye(2, dtype=torch.float16))
    with in_precision(model, "float16", sparing=True):
        found = model(torch.eye(2, dtype=torch.float16))
    torch.testing.assert_close(found, whole, equal_nan=True)
    assert float(found[0, 0]) == torch.finfo(torch.float16).max


def test_code_outside_of_torch_functions_gets_a_copy():
    model = nn.Linear(4, 4)

    def work() -> torch.Tensor:
        with torch._C.DisableTorchFunction():  # like a compiled extension
            return model.weight @ torch.ones(4, dtype=torch.float64)

    assert run_in(model, "float64", work).dtype is torch.float64


class Counted(nn.Module):
    """Counts its runs by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []
        self.up, self.act, self.down = nn.Linear(32, 48), nn.SiLU(), nn.Linear(48, 32)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs.append(str(x.dtype).removeprefix("torch."))
        return self.norm(x + self.down(self.act(self.up(x))))


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((3, 20, 32)).astype(np.float32)}


def test_a_capture_runs_the_model_no_more_often_than_needed(tmp_path, values):
    model, told = Counted(), []
    floors = ("float32", "bfloat16")
    record(
        Subject(model=model), tmp_path / "t.h5", inputs=values, floor=floors, verify=False,
        progress=told.append,
    )  # fmt: skip
    assert sorted(model.runs) == ["bfloat16"] * 2 + ["float32"] + ["float64"] * 3
    begin = next(n for n, message in enumerate(told) if message.startswith("noise floors"))
    assert told[begin].startswith(
        "noise floors: 5 more runs of the model, 3 of them in float64: about 10 times a"
    )
    assert told[begin].endswith("GB on the disk meanwhile.")
    runs = [message for message in told[begin + 1 :] if "run " in message and "%" not in message]
    assert [message.split(": ")[0] for message in runs] == [
        f"noise floors, run {n} of 5" for n in range(1, 6)
    ]
    assert any(" %, " in message and "s so far" in message for message in told)
    assert [path.name for path in tmp_path.iterdir()] == ["t.h5"]


def test_shortcuts_do_not_change_the_figures(tmp_path, values, monkeypatch):
    torch.manual_seed(0)
    model = Counted()
    floors = ("float32", "bfloat16")
    record(Subject(model=model), tmp_path / "short.h5", inputs=values, floor=floors)
    plain = floors_module.record_all_floors
    monkeypatch.setattr(
        floors_module, "record_all_floors", lambda *a, **k: plain(*a, **{**k, "whole": False})
    )
    monkeypatch.setattr(Forcer, "is_given", lambda *_: False)
    monkeypatch.setattr(Forcer, "_holds", lambda *_: False)
    record(Subject(model=model), tmp_path / "long.h5", inputs=values, floor=floors)
    with open_trace(tmp_path / "short.h5") as short, open_trace(tmp_path / "long.h5") as long:
        assert set(short.tables) == set(long.tables)
        for dtype in floors:
            ours, theirs = (t.table(f"floor/free/{dtype}") for t in (short, long))
            for column in ("order", "count"):
                np.testing.assert_array_equal(ours[column], theirs[column])
            for column in ("error", "scale"):
                np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-6)
        for dtype, slack in (*((d, 1e-6) for d in floors), (CONDITIONING, 0.1)):
            ours, theirs = (from_tables(*(t.table(n) for n in names(dtype))) for t in (short, long))
            assert set(ours) == set(theirs)
            for order, spread in theirs.items():
                assert ours[order].count == spread.count
                np.testing.assert_allclose(ours[order].rms, spread.rms, rtol=slack)
                assert len(ours[order].rows) == len(spread.rows)


def test_a_value_written_to_after_it_was_forced_is_forced_again():
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x)
            self.two(x)
            return self.three(x.mul_(3))

    given = np.frombuffer(np.full((2, 4), 7, np.float32).tobytes(), np.float32).reshape(2, 4)
    seen: dict[Key, np.ndarray] = {}
    forcer = Forcer(
        Chain(),
        lambda event: seen.update({event.key: event.value.copy()}),
        Selection(),
        lambda key: (given, "float32") if key.path else None,
    )
    with torch.no_grad(), forcer:
        out = forcer._model(torch.ones(2, 4))
    np.testing.assert_array_equal(seen[Key("two", "input", "input")], given)
    np.testing.assert_array_equal(seen[Key("three", "input", "input")], 3 * given)
    np.testing.assert_array_equal(out.numpy(), given)


def test_spread_of_an_error_alone():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((5, 40, 24))
    value = (truth + 1e-3 * rng.standard_normal(truth.shape)).astype(np.float32)
    value[0, 0, 0], truth[1, 1, 1] = np.nan, -3e38
    valid = np.ones((5, 40, 1), bool)
    valid[2, :7] = False
    for mask in (None, valid):
        both, alone = spreads(value, truth, mask)[0], error_spread(value, truth, mask)
        assert (both.rms, both.count) == (alone.rms, alone.count)
        np.testing.assert_array_equal(both.rows, alone.rows)
        np.testing.assert_array_equal(both.columns, alone.columns)
        assert no_error(value, mask).count == error_spread(value, value, mask).count
    assert no_error(truth).rms == 0
