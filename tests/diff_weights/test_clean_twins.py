"""Right ports, however they rename, transpose, fuse, stack and split: nothing may be called wrong."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstdiff.diff.weights.audit import audit
from firstdiff.models.families import FAMILIES, family
from firstdiff.models.twins import Rules, parameters, twin

RULES = st.builds(
    Rules,
    framework=st.sampled_from(["linen", "nnx", "haiku", "equinox", ""]),
    names=st.sampled_from(["same", "meta", "gemma", "flax", "opaque", "lying"]),
    qkv=st.sampled_from(["apart", "flat", "head-major", "interleaved"]),
    gate_up=st.booleans(),
    experts=st.sampled_from(["as is", "batched", "looped"]),
    stack=st.sampled_from([None, 0, 1, 2]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    shuffle=st.booleans(),
)


@given(name=st.sampled_from(FAMILIES), rules=RULES, known=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_a_right_port_has_nothing_wrong(name: str, rules: Rules, known: bool) -> None:
    source = family(name)
    reference = parameters(
        source.values, "torch" if known else "", source.classes if known else None
    )
    port = twin(source.values, source.kind, source.geometry, rules)
    result = audit(reference, port.parameters())
    assert [(v.finding, v.words) for v in result.wrong] == []
    assert result.exit_code == 0
    assert result.right == result.parameters == len(reference)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "vit"])
@pytest.mark.parametrize("stack", [None, 0])
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"rotary": True}, "reordered"),
        ({"scale": True}, "scaled"),
        ({"one_plus": True}, "offset"),
    ],
)
def test_what_the_ports_code_may_undo_is_a_note(
    name: str, stack: int | None, change: dict[str, bool], finding: str
) -> None:
    source = family(name)
    port = twin(source.values, source.kind, source.geometry, Rules(stack=stack, **change))
    result = audit(parameters(source.values, "torch", source.classes), port.parameters())
    assert result.exit_code == 0, [v.words for v in result.wrong]
    assert {v.finding for v in result.notes} == {finding}
