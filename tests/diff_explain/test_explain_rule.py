"""The rule of acceptance, on trials made by hand; and the list of causes, which has to be whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff.explain import (
    attention_changes,
    causes,
    embedding,
    experts,
    images,
    linear,
    norms,
    patches,
    pooling,
    rotary,
    router,
    signatures,
    summands,
)
from firstdiff.diff.explain.hypothesis import Hypothesis
from firstdiff.diff.explain.rounding import round_to
from firstdiff.diff.explain.trial import Trial, decide
from firstdiff.models import FAULTS
from firstdiff.models.family_faults import FAMILY_FAULTS


def trial(
    cause: str, left: float, *, before: float = 1000.0, amplitude: float = 0.0, effect: float = 1.0,
    precision: bool = False, pattern: tuple[float, float] = (0.0, 0.0), fitted: bool = False,
) -> Trial:  # fmt: skip
    hypothesis = Hypothesis(cause, cause, np.zeros(1), precision=precision, fitted=fitted)
    return Trial(hypothesis, before, left, amplitude, effect, pattern)


def test_an_error_at_the_floor_is_believed() -> None:
    assert decide([trial("a", 0.9), trial("b", 500.0)]) is not None


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial("a", 3.1), trial("b", 500.0)],
        [trial("a", 2.0, before=3.5)],
        [trial("a", 0.9), trial("b", 1.2)],
    ],
    ids=["nothing", "above the floor", "hardly better", "no clear winner"],
)
def test_what_is_not_believed(trials: list[Trial]) -> None:
    assert decide(trials) is None


def test_two_forms_of_one_cause_do_not_compete() -> None:
    assert decide([trial("a", 0.9), trial("a", 0.91), trial("b", 500.0)]) is not None


def test_effects_of_the_size_of_rounding_are_matched() -> None:
    small = trial("a", 2.5, before=3.5, amplitude=0.95, effect=0.5)
    assert decide([small, trial("b", 3.4, before=3.5)]) is small
    rival = trial("b", 2.9, before=3.5, amplitude=1.1, effect=0.4)
    assert decide([small, rival]) is None
    assert decide([trial("a", 2.5, before=3.5, amplitude=0.6, effect=0.5)]) is None


def test_what_was_fitted_is_not_believed_for_its_amplitude() -> None:
    fitted = trial("a", 2.5, before=3.5, amplitude=1.0, effect=0.9, fitted=True)
    assert decide([fitted]) is None
    plain = trial("b", 2.6, before=3.5, amplitude=1.0, effect=0.9)
    assert decide([fitted, plain]) is None
    assert decide([plain, trial("a", 3.4, before=3.5, fitted=True)]) is plain
    gone = trial("a", 0.9, amplitude=1.0, fitted=True)
    assert decide([gone]) is gone
    assert decide([trial("a", 0.9, before=7.0, amplitude=1.0, fitted=True)]) is None


def test_losses_of_precision_are_told_by_their_pattern() -> None:
    loss = trial("low precision", 400.0, precision=True, pattern=(1.02, 0.9))
    assert decide([trial("b", 300.0), loss]) is loss
    assert decide([trial("low precision", 400.0, precision=True, pattern=(1.02, 0.5))]) is None


def test_every_cause_that_can_be_named_is_listed() -> None:
    tables = (
        attention_changes.CHANGES, norms.CHANGES, norms.KINDS, rotary.CHANGES, rotary.PRECISION, linear.CHANGES,
        embedding.CHANGES, signatures.CHANGES, router.CHANGES, experts.CHANGES, pooling.CHANGES, images.CHANGES,
        patches.CHANGES, summands.CHANGES,
    )  # fmt: skip
    assert {change.cause for table in tables for change in table} <= set(causes.CAUSES)
    assert all(causes.tests_of(name) for name in causes.CAUSES)


def test_the_faults_of_the_catalogue_have_listed_causes() -> None:
    every = (*FAULTS.values(), *FAMILY_FAULTS.values())
    assert {fault.cause for fault in every} - set(causes.CAUSES) == {"dropout"}


def test_the_page_of_causes_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "causes.md"
    assert page.read_text(encoding="utf-8") == causes.page(), (
        "python -m firstdiff.diff.explain.causes > docs/causes.md"
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_that_of_the_dtype(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.random.default_rng(1).integers(
        -7, 6, 1000
    )
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(kind).astype(np.float64)
    np.testing.assert_array_equal(
        round_to(values.astype(np.float32).astype(np.float64), dtype), expected
    )
