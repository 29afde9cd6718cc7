"""Mistakes that bfloat16 cannot show as divergences are known by their pattern; right ports raise no suspicion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff import Diff, diff
from firstdiff.models import FAULTS, qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.recording import record
from firstdiff.traces import Header, Key, TraceWriter


@pytest.fixture(scope="module")
def narrow(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("narrow") / "reference.h5"
    record(
        f"hf:{checkpoint}", path, inputs=discriminating_inputs(), dtype="bfloat16",
        floor=("bfloat16",), verify=False,
    )  # fmt: skip
    return path


def compared(checkpoint: Path, narrow: Path, **options: str) -> Diff:
    path = narrow.parent / "port.h5"
    subject = qwen2.subject("linen", checkpoint, dtype="bfloat16", **options)
    record(subject, path, inputs=discriminating_inputs(), verify=False, force=True)
    return diff(narrow, path)


@pytest.mark.parametrize("name", ["attention_scale_percent", "norm_eps_outside", "rotary_bfloat16"])
def test_a_fault_below_the_floor_is_suspected_where_it_is(
    name: str, checkpoint: Path, narrow: Path
) -> None:
    fault, result = FAULTS[name], compared(checkpoint, narrow, fault=name)
    assert result.finding is None
    assert result.exit_code == 0
    found = result.suspicion
    assert found is not None
    assert (found.name, found.site, found.cause) == (fault.activation, fault.site, fault.cause)
    assert abs(found.amplitude - 1) < 0.3
    assert result.summary == found.sentence
    assert result.summary.startswith(f"Below the floor: {fault.activation} {fault.site}")
    assert result.summary.endswith("repeat in float32.")


@pytest.mark.parametrize(
    "variant", ["", "norm_scaled_float32", "attention_float32", "silu_float32"]
)
def test_a_right_port_is_not_suspected(variant: str, checkpoint: Path, narrow: Path) -> None:
    options = {"variant": variant} if variant else {}
    result = compared(checkpoint, narrow, **options)
    assert result.suspicion is None
    assert result.summary.startswith("As far as bfloat16 shows, the port agrees")


def test_what_lies_below_the_floor_ahead_of_a_divergence_is_said_too(
    checkpoint: Path, narrow: Path
) -> None:
    compared(checkpoint, narrow, fault="norm_eps_outside")
    epsilon = narrow.parent / "port.h5"
    epsilon = epsilon.rename(narrow.parent / "epsilon.h5")
    compared(checkpoint, narrow, fault="gelu_for_silu")
    mixed = _mixed(epsilon, narrow.parent / "port.h5", narrow.parent / "mixed.h5")
    result = diff(narrow, mixed)
    assert result.first is not None
    assert result.first.name == "layers.0.mlp.act_fn"
    assert result.suspicion is not None
    assert result.suspicion.name == "layers.0.input_layernorm"
    assert result.summary.startswith("First divergence: ")


def _mixed(early: Path, late: Path, path: Path) -> Path:
    """The attention of one trace and what follows it of another."""
    from firstdiff.traces import open_trace

    with (
        open_trace(early) as one,
        open_trace(late) as other,
        TraceWriter(path, other.header) as writer,
    ):
        for name, given in other.inputs.items():
            writer.write_input(name, other.input(name), dtype=given.dtype)
        values = {a.key: a for a in one.activations}
        for a in other.activations:
            first = "layers_0" in a.key.path and "norm" in a.key.path
            source, found = (one, values[a.key]) if first else (other, a)
            writer.write(a.key, source.stored(found), dtype=a.dtype, class_name=a.class_name)
        writer.finish()
    return path


def test_float32_is_not_searched(compared_float32: Diff) -> None:
    assert compared_float32.suspicion is None


@pytest.fixture
def compared_float32(tmp_path: Path) -> Diff:
    """A hand-made norm with another epsilon, far below any real floor."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 16, 64))
    paths = []
    for name, eps in (("reference", 1e-6), ("port", 1.05e-6)):
        y = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
        with TraceWriter(tmp_path / f"{name}.h5", Header("torch", dtype="float32")) as writer:
            writer.write_input("input_ids", np.arange(64).reshape(4, 16), dtype="int64")
            for site, value in (("input", x), ("output", y)):
                key = Key("norm", site)
                writer.write(key, value.astype(np.float32), dtype="float32")
            paths.append(writer.finish())
    return diff(*paths)


def test_a_port_more_precise_than_the_reference_is_not_suspected(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", seed=103, dtype="bfloat16")
    inputs = discriminating_inputs(seed=103)
    reference, port = tmp_path / "reference.h5", tmp_path / "port.h5"
    record(
        f"hf:{checkpoint}", reference, inputs=inputs, dtype="bfloat16", floor=("bfloat16",),
        verify=False,
    )  # fmt: skip
    record(qwen2.subject("linen", checkpoint, dtype="float32"), port, inputs=inputs, verify=False)
    result = diff(reference, port)
    assert (result.exit_code, result.suspicion) == (0, None)


def test_a_port_that_rounds_the_weights_of_a_float32_reference_is_not_suspected(
    tmp_path: Path,
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", seed=119)
    inputs = discriminating_inputs(seed=119)
    reference, port = tmp_path / "reference.h5", tmp_path / "port.h5"
    record(f"hf:{checkpoint}", reference, inputs=inputs, floor=("bfloat16",), verify=False)
    record(qwen2.subject("linen", checkpoint, dtype="bfloat16"), port, inputs=inputs, verify=False)
    result = diff(reference, port)
    assert result.exit_code == 0
    assert result.suspicion is None


def test_nothing_is_suspected_where_what_went_in_differs(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", seed=11)
    inputs = discriminating_inputs(seed=11)
    reference, port = tmp_path / "reference.h5", tmp_path / "port.h5"
    record(
        f"hf:{checkpoint}", reference, inputs=inputs, dtype="bfloat16", floor=("bfloat16",),
        verify=False,
    )  # fmt: skip
    moved = qwen2.subject("linen", checkpoint, dtype="bfloat16", fault="positions_plus_one")
    record(moved, port, inputs=inputs, verify=False)
    result = diff(reference, port)
    assert result.counts.healed > 0
    assert (result.exit_code, result.suspicion) == (0, None)
