"""The golden run is float64 inside, a run in another dtype is what loading in it gives, and the
model survives both.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from firstdiff.tracer.golden import in_precision, inputs_as
from firstdiff.tracer.torch import recording


def bits(model: nn.Module) -> dict[str, tuple[int, bytes]]:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {k: (t.data_ptr(), t.detach().numpy().tobytes()) for k, t in tensors.items()}


def test_norm_and_rotary_agree_with_float64_numpy(tiny_qwen2, tokens, sink):
    with in_precision(tiny_qwen2, "float64"), recording(tiny_qwen2, sink):
        tiny_qwen2(**inputs_as(tokens, "float64"))
    name = "model.layers.0.input_layernorm"
    x = sink[name, "input", "hidden_states"].value
    weight = tiny_qwen2.model.layers[0].input_layernorm.weight.detach().numpy().astype(np.float64)
    norm = weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + tiny_qwen2.config.rms_norm_eps)
    got = sink[name, "output"].value
    assert got.dtype == np.float64
    assert np.abs(got - norm).max() / np.abs(norm).max() < 1e-15

    positions = sink["model.rotary_emb", "input", "position_ids"].value
    theta = tiny_qwen2.config.rope_parameters["rope_theta"]
    angles = positions[..., None] / theta ** (np.arange(0, 8, 2) / 8)
    cos = np.cos(np.concatenate([angles, angles], -1))
    assert np.abs(sink["model.rotary_emb", "output", "0"].value - cos).max() < 1e-14


def test_nothing_inside_is_less_than_float64(tiny_qwen2, tokens, sink):
    with in_precision(tiny_qwen2, "float64"), recording(tiny_qwen2, sink):
        tiny_qwen2(**tokens)
    assert {e.dtype for e in sink.events} == {"float64", "int64"}


def test_padded_rows_are_finite(tiny_qwen2, tokens, sink):
    with in_precision(tiny_qwen2, "float64"), recording(tiny_qwen2, sink):
        tiny_qwen2(**tokens)
    assert all(np.isfinite(e.value).all() for e in sink.events)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_model_is_bitwise_the_same_afterwards(dtype, tiny_qwen2, tokens):
    before, state = bits(tiny_qwen2), torch.get_rng_state()
    with in_precision(tiny_qwen2, dtype):
        assert tiny_qwen2.lm_head.weight.dtype == getattr(torch, dtype)
        tiny_qwen2(**tokens)
        torch.rand(3)
    assert bits(tiny_qwen2) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert torch.tensor(1.0).float().dtype == torch.float32


def test_model_survives_an_exception(tiny_qwen2):
    before = bits(tiny_qwen2)
    with pytest.raises(KeyboardInterrupt), in_precision(tiny_qwen2, "float64"):
        raise KeyboardInterrupt
    assert bits(tiny_qwen2) == before
    assert torch.ones(1).dtype == torch.float32


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    with in_precision(model, "float64"):
        assert model.head.weight is model.embed.weight
        assert model.head.weight.dtype == torch.float64


def test_bfloat16_is_what_from_pretrained_gives(tiny_qwen2, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    tiny_qwen2.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = loaded(**tokens).logits
    with in_precision(tiny_qwen2, "bfloat16"):
        assert tiny_qwen2.model.rotary_emb.inv_freq.dtype == torch.float32
        got = tiny_qwen2(**tokens).logits
    assert torch.equal(got, expected)


class Requests(nn.Module):
    """Asks for lower precision in every spelling."""

    def forward(self, x):
        w = [x.float(), x.half(), x.bfloat16(), x.to(torch.float32), x.to(dtype=torch.float)]
        w += [x.type(torch.float32), x.type(torch.FloatTensor), x.type("torch.FloatTensor")]
        w += [torch.zeros(2, dtype=torch.float32), torch.arange(3.0), torch.tensor(0.1)]
        w += [F.softmax(x, dim=-1, dtype=torch.float32), torch.ones(2), x.new_zeros(1)]
        w += [torch.empty_like(x, dtype=torch.float16), x.sum(dtype=torch.float32)]
        w += [torch.arange(3) / 3, torch.linspace(0, 1, 3), torch.polar(x, x).real]
        return w


def test_every_request_for_less_is_rewritten():
    model, x = Requests(), torch.rand(2)
    assert {str(t.dtype) for t in model(x)} == {
        "torch.float32",
        "torch.float16",
        "torch.bfloat16",
    }
    with in_precision(model, "float64"):
        out = model(x.double())
    assert {t.dtype for t in out} == {torch.float64}


def test_reinterpreting_bits_is_no_request():
    class Bits(nn.Module):
        def forward(self, x):
            return x.view(torch.float32)

    with in_precision(Bits(), "float64"):
        assert Bits()(torch.ones(2, dtype=torch.int32)).dtype == torch.float32


def test_autocast_is_off_inside(net):
    with torch.autocast("cpu", dtype=torch.bfloat16), in_precision(net, "float64"):
        assert net(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_state_that_a_forward_changes_is_put_back():
    class Growing(nn.Module):
        """As dynamic rotary embeddings do: a new buffer, and the length that it is for."""

        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.ones(3), persistent=False)
            self.register_buffer("calls", torch.tensor(0))
            self.length = 3

        def forward(self, x):
            self.calls += 1
            if x.shape[0] > self.length:
                self.length = x.shape[0]
                self.extra = torch.ones(1)
                self.register_buffer("table", torch.full((self.length,), 2.0), persistent=False)
            return x * self.table

    model = Growing()
    before = bits(model)
    with in_precision(model, "float64"):
        model(torch.ones(5))
    assert bits(model) == before
    assert model.length == 3
    assert not hasattr(model, "extra")
    assert model._non_persistent_buffers_set == {"table"}


def test_an_edited_table_is_not_rebuilt(tiny_qwen2):
    rotary = tiny_qwen2.model.rotary_emb
    original = rotary.inv_freq.clone()
    try:
        rotary.inv_freq.mul_(1.5)
        with in_precision(tiny_qwen2, "float64"):
            assert torch.equal(rotary.inv_freq, original.mul(1.5).double())
    finally:
        rotary.inv_freq.copy_(original)


def test_plain_tensor_attributes_are_widened():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.tensor(0.1)

    model = Scaled()
    with in_precision(model, "float64"):
        assert model.scale.dtype == torch.float64
    assert model.scale.dtype == torch.float32


def test_masks_of_the_lowest_float_stay_finite():
    mask = torch.tensor([0.0, torch.finfo(torch.float32).min, float("-inf")])
    got = inputs_as({"mask": mask, "nested": [mask], "ids": torch.tensor([1])}, "bfloat16")
    assert got["mask"].dtype == torch.bfloat16
    assert got["mask"].isinf().tolist() == [False, False, True]
    assert torch.equal(got["nested"][0], got["mask"])
    assert got["ids"].dtype == torch.int64


def test_mixture_of_experts_in_float64(sink):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = MixtralForCausalLM(config).eval()
    ids = torch.arange(1, 11)[None]
    with in_precision(model, "float64"), recording(model, sink):
        model(input_ids=ids)
    moe = model.model.layers[0].mlp
    x = torch.tensor(sink["model.layers.0.mlp", "input", "hidden_states"].value)[0]
    probabilities = F.softmax(x @ moe.gate.weight.detach().double().T, -1)
    top, chosen = probabilities.topk(config.num_experts_per_tok, -1)
    top = top / top.sum(-1, keepdim=True)
    expected = torch.zeros_like(x)
    for token in range(len(x)):
        for weight, expert in zip(top[token], chosen[token], strict=True):
            gate, up = (moe.experts.gate_up_proj[expert].detach().double() @ x[token]).chunk(2)
            down = moe.experts.down_proj[expert].detach().double()
            expected[token] += weight * (down @ (F.silu(gate) * up))
    got = torch.tensor(sink["model.layers.0.mlp", "output"].value)[0]
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-14)
