"""Faults are faults: each moves the logits beyond rounding, or says that it is harmless; right ports stay right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.faults import FAULTS, Fault, find
from firstdiff.models.qwen2 import PORTS, subject
from firstdiff.traces.errors import OptionError

NOISE = 1e-5  # ten times that rounding: the smallest faults, losses of precision, move them by 1e-4
CLEAR = 1e-3  # a thousand times the float32 rounding of these logits


def error(port: str, folder: Path, judge: Any, **options: Any) -> float:
    inputs = discriminating_inputs()
    made = subject(port, folder, **options)
    logits = made.call(made.model, **inputs).logits
    if not np.isfinite(np.asarray(logits)).all():
        return float("inf")
    return float(judge.relative_l2(logits, judge.reference(folder, inputs).logits, inputs))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_moves_the_logits_unless_it_is_harmless(name: str, tiny: Path, judge: Any) -> None:
    moved = error("linen", tiny, judge, fault=name)
    assert moved < NOISE if FAULTS[name].harmless else moved > NOISE


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("scan", [False, True])
def test_every_port_carries_the_rotary_fault(port: str, scan: bool, tiny: Path, judge: Any) -> None:
    assert error(port, tiny, judge, fault="rotary_interleaved", scan=scan) > CLEAR
    assert error(port, tiny, judge, scan=scan) < 1e-5


@pytest.mark.parametrize("name", ["norm_eps", "gate_up_swapped", "head_untied", "gqa_tiled"])
def test_one_entry_is_the_same_mistake_in_every_port(name: str, tiny: Path, judge: Any) -> None:
    errors = [error(port, tiny, judge, fault=name) for port in PORTS]
    np.testing.assert_allclose(errors, errors[0], rtol=1e-3)


def test_a_faulty_port_leaves_the_right_one_right(tiny: Path, judge: Any) -> None:
    right = subject("linen", tiny)
    wrong = subject("linen", tiny, fault="rotary_interleaved")
    inputs = discriminating_inputs()
    reference = judge.reference(tiny, inputs).logits
    assert judge.relative_l2(wrong.call(wrong.model, **inputs).logits, reference, inputs) > CLEAR
    assert judge.relative_l2(right.call(right.model, **inputs).logits, reference, inputs) < 1e-5


def test_the_rotary_fault_spares_the_first_position(tiny: Path, judge: Any) -> None:
    inputs = discriminating_inputs(padding=(0, 0))
    made = subject("linen", tiny, fault="rotary_interleaved")
    logits = np.asarray(made.call(made.model, **inputs).logits)
    reference = judge.reference(tiny, inputs).logits
    by_position = np.abs(logits - reference).max(axis=(0, 2))
    assert by_position[0] < 1e-4 * np.abs(reference).max()
    assert by_position[1:].min() > CLEAR


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_where_it_is(name: str, tiny: Path) -> None:
    fault = FAULTS[name]
    assert fault.name == name
    assert fault.sentence.endswith(".")
    assert fault.site in ("input", "output")
    levers = (bool(fault.config), fault.weights is not None, bool(fault.functions))
    assert any(levers)
    assert subject("linen", tiny, fault=name).name == f"qwen2.linen:{name}"


def test_unknown_names_are_refused_with_the_known_ones(tiny: Path) -> None:
    with pytest.raises(OptionError, match=r"'roatry'.*rotary_missing.*--list"):
        find("roatry")
    with pytest.raises(OptionError, match=r"'lennin'.*linen"):
        subject("lennin", tiny)
    absent = Fault("x", "X.", cause="x", module="", activation="", functions={"no_such": abs})
    with pytest.raises(OptionError, match="no function 'no_such'"):
        subject("linen", tiny, fault=absent)
