"""Key-value caches are recorded once, at the root, as they grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import StaticCache

from firstdiff.tracer.torch import capture_torch, recording


def steps(model, ids, cache=None):
    """Prefill, then two decode steps, as generation does it."""
    out = model(input_ids=ids[:, :5], past_key_values=cache, use_cache=True)
    for t in (5, 6):
        out = model(
            input_ids=ids[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True
        )
    return out.past_key_values


@pytest.mark.parametrize("static", [False, True])
def test_only_what_is_new(static, tiny_qwen2, tokens, sink):
    cache = StaticCache(tiny_qwen2.config, max_cache_len=16) if static else None
    with torch.no_grad(), recording(tiny_qwen2, sink):
        final = steps(tiny_qwen2, tokens["input_ids"], cache)
    cached = [e for e in sink.events if "past_key_values" in e.key.leaf]
    assert {e.key.path for e in cached} == {""}
    assert {e.key.site for e in cached} == {"output"}
    for layer in range(2):
        for part in ("keys", "values"):
            pieces = [e for e in cached if e.key.leaf == f"past_key_values.{layer}.{part}"]
            assert [e.key.step for e in pieces] == [0, 1, 2]
            assert [e.value.shape[2] for e in pieces] == [5, 1, 1]
            whole = np.concatenate([e.value for e in pieces], axis=2)
            expected = getattr(final.layers[layer], part)[:, :, :7]
            assert np.array_equal(whole, expected.numpy())


def test_a_cache_in_the_arguments_does_not_break_the_check(tiny_qwen2, tokens, sink):
    with torch.no_grad():
        first = tiny_qwen2(input_ids=tokens["input_ids"][:, :5], use_cache=True)
    capture = capture_torch(
        tiny_qwen2,
        None,
        {"input_ids": tokens["input_ids"][:, 5:6], "past_key_values": first.past_key_values},
        sink=sink,
    )
    assert capture.output_check["bitwise"]
    assert first.past_key_values.get_seq_length() == 6
    assert list(capture.outputs) == ["logits"]


def test_decoding_equals_prefill(tiny_qwen2, tokens, sink):
    ids = tokens["input_ids"]
    with torch.no_grad(), recording(tiny_qwen2, sink):
        steps(tiny_qwen2, ids)
        whole = tiny_qwen2(input_ids=ids[:, :7]).logits
    assert np.allclose(sink["", "output", "logits", 0, 2].value, whole[:, 6:], atol=1e-5)
