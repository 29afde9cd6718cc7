"""A fault that bfloat16 cannot show is below the floor, and that is said: never plain agreement."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from firstdiff.diff import diff
from firstdiff.diff.report.text import print_diff

if TYPE_CHECKING:
    from pathlib import Path

    Maker = Any


def printed(result: Any) -> str:
    out = io.StringIO()
    print_diff(result, console=Console(file=out, width=400, highlight=False))
    return out.getvalue()


def test_a_fault_below_the_floor_is_no_plain_agreement(maker: Maker, tmp_path: Path) -> None:
    narrow = diff(maker.reference("bfloat16"), maker.port("eps", "bfloat16"))
    assert narrow.exit_code == 0
    assert narrow.summary.startswith(
        "As far as bfloat16 shows, the port agrees with the reference: 97 activations, worst"
    )
    assert narrow.hidden is not None
    assert narrow.hidden.sentence.startswith(
        "Below the floor of bfloat16: a fault that changes an activation by less than "
    )
    assert narrow.hidden.sentence.endswith("repeat in float32.")
    assert narrow.hidden.sentence in printed(narrow)
    assert narrow.hidden.sentence in narrow.to_html(tmp_path / "p.html").read_text()
    assert json.loads(narrow.to_json())["hidden"]["sentence"] == narrow.hidden.sentence


def test_the_size_that_is_said_to_be_hidden_covers_the_fault(maker: Maker) -> None:
    narrow = diff(maker.reference("bfloat16"), maker.port("eps", "bfloat16"))
    wide = diff(maker.reference(), maker.port("eps"))
    assert wide.exit_code == 1
    assert wide.first is not None
    assert wide.first.measurement is not None
    effect = wide.first.measurement.relative_l2
    at_fault = next(
        row for row in narrow.rows if (row.name, row.label) == (wide.first.name, wide.first.label)
    )
    assert narrow.hidden is not None
    assert at_fault.floor is not None
    assert effect < 3 * at_fault.floor.relative
    assert narrow.hidden.least <= 3 * at_fault.floor.relative <= narrow.hidden.most
    assert narrow.hidden.least < narrow.hidden.median < narrow.hidden.most


def test_float32_hides_little_and_says_nothing(maker: Maker) -> None:
    result = diff(maker.reference(), maker.port())
    assert result.summary.startswith("The port agrees with the reference: ")
    assert result.hidden is not None
    assert (result.hidden.dtype, result.hidden.narrow, result.hidden.sentence) == (
        "float32",
        False,
        "",
    )
    assert result.hidden.most < 1e-4
    assert "Below the floor" not in printed(result)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equal_values_hide_nothing(maker: Maker, dtype: str) -> None:
    same = maker.write("p.h5", maker.taps(dtype=dtype), dtype=dtype, as_port=True)
    result = diff(maker.reference(dtype), same)
    assert result.hidden is None
    assert (
        result.summary == "The port agrees with the reference: 97 activations, every value equal."
    )


def test_a_divergence_is_said_without_it(maker: Maker) -> None:
    result = diff(maker.reference("bfloat16"), maker.port("gelu", "bfloat16"))
    assert result.exit_code == 1
    assert "Below the floor" not in printed(result)
