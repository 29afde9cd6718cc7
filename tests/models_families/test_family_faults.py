"""Faults that Qwen2 cannot have: each is placed exactly in its pair, and no wrong cause is stated as certain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import firstdiff
from firstdiff.diff.result import Diff
from firstdiff.models import qwen2
from firstdiff.models.family_faults import FAMILY_FAULTS
from firstdiff.models.faults import FAULTS, find
from firstdiff.models.ported import PORTED, subject
from firstdiff.traces.errors import OptionError

Made = Callable[[str], tuple[Path, Path]]

UNNAMED = {"vit_kernel_turned"}
"""Told by the audit of the weights: a kernel of two axes turned needs more images to be inferred."""


@pytest.fixture(scope="module")
def checked(made: Made) -> Callable[[str], Diff]:
    """``checked(fault)``: the comparison of the port with that fault, each family's reference captured once."""
    results: dict[str, Diff] = {}

    def check(name: str) -> Diff:
        if name not in results:
            family = FAMILY_FAULTS[name].family
            folder, reference = made(family)
            port = subject(family, "linen", folder, fault=name)
            results[name] = firstdiff.check(str(reference), port, replay=False, verify=False)
        return results[name]

    return check


@pytest.mark.parametrize("name", FAMILY_FAULTS)
def test_a_fault_is_placed_and_its_cause_named(name: str, checked: Callable[[str], Diff]) -> None:
    fault, result = FAMILY_FAULTS[name], checked(name)
    assert result.first is not None
    place = (result.first.name, result.first.key.site)
    assert place == (fault.activation, fault.site)
    cause = result.explanation.cause if result.explanation is not None else None
    assert cause == (None if name in UNNAMED else fault.cause)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt2_norm_bias_missing", "h_0.ln_1.bias was never loaded: all 0"),
        ("gpt2_conv1d_transposed", "h_0.attn.out.kernel is wrongly transposed"),
        ("vit_kernel_turned", "is the reference's with axes (3, 2, 1, 0), not axes (2, 3, 1, 0)"),
        ("mixtral_experts_permuted", "blocks of 48 in another order (1,2,3,0)"),
    ],
)
def test_wrong_weights_are_told_by_the_audit(
    name: str, said: str, checked: Callable[[str], Diff]
) -> None:
    assert checked(name).cause.startswith("weights: ")
    assert said in checked(name).cause


@pytest.mark.parametrize("family", PORTED)
def test_the_right_port_agrees(family: str, made: Made) -> None:
    folder, reference = made(family)
    port = subject(family, "linen", folder)
    result = firstdiff.check(str(reference), port, replay=False, verify=False)
    assert result.finding is None, result.summary
    assert result.cause == ""


def test_every_family_has_faults_of_its_own() -> None:
    assert {fault.family for fault in FAMILY_FAULTS.values()} == set(PORTED)
    assert not FAMILY_FAULTS.keys() & FAULTS.keys()
    for name, fault in FAMILY_FAULTS.items():
        assert fault.name == name
        assert name.startswith(fault.family)
        assert fault.sentence.endswith(".")
        assert find(name) is fault


def test_a_fault_of_another_family_is_refused(made: Made, checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="one of gpt2, the port computes 'bert'"):
        subject("bert", "linen", made("bert")[0], fault="gpt2_gelu_exact")
    with pytest.raises(OptionError, match="one of gpt2, the port computes qwen2"):
        qwen2.subject("linen", checkpoint, fault="gpt2_gelu_exact")
