"""Any checkpoint that transformers knows becomes a subject that can be captured."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import logging

from firstdiff.models.checkpoint import write_checkpoint
from firstdiff.models.hub import encode, load_hf
from firstdiff.models.subject import Subject
from firstdiff.tracer.floor import measure_free_floor
from firstdiff.tracer.torch import capture_torch
from firstdiff.traces.errors import OptionError, SubjectError

if TYPE_CHECKING:
    from firstdiff.traces.schema import Key

CAUSAL = ("qwen2", "llama", "gemma", "mixtral", "gpt2")
CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "gemma": "GemmaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
}


@pytest.mark.parametrize("family", CLASSES)
def test_family(family, checkpoint):
    subject = load_hf(f"hf:{checkpoint(family)}")
    assert isinstance(subject, Subject)
    assert type(subject.model).__name__ == CLASSES[family]
    assert not subject.model.training
    assert subject.framework == "torch"
    assert subject.config["model_type"] == family
    json.dumps(subject.config)
    keys = []
    capture = capture_torch(
        subject.model, subject.call, subject.inputs, sink=lambda e: keys.append(e.key)
    )
    assert capture.output_check["bitwise"]
    assert not any("past_key_values" in k.leaf for k in keys)
    expected = getattr(transformers, CLASSES[family]).from_pretrained(
        checkpoint(family), attn_implementation="eager"
    )
    with torch.no_grad():
        plain = expected.eval()(**subject.inputs)
    first = next(iter(capture.outputs.values()))
    assert np.array_equal(first.array, plain[0].numpy())


@pytest.mark.parametrize("family", CAUSAL)
def test_default_prompt_discriminates(family, checkpoint):
    inputs = load_hf(f"hf:{checkpoint(family)}").inputs
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert ids.shape == mask.shape == (2, 48)
    pads = (mask == 0).sum(1).tolist()
    assert pads[0] != pads[1]
    assert (mask[:, -1] == 1).all()  # padded on the left
    assert (mask.diff(dim=1) >= 0).all()
    assert len(ids[mask == 1].unique()) > 30
    assert int(ids.max()) < 128
    again = load_hf(f"hf:{checkpoint(family)}").inputs
    assert torch.equal(again["input_ids"], ids)


@pytest.mark.parametrize("family", CLASSES)
def test_noise_floor_of_every_family(family, checkpoint, tmp_path):
    subject = load_hf(f"hf:{checkpoint(family)}")
    orders: dict[Key, int] = {}
    capture_torch(
        subject.model,
        subject.call,
        subject.inputs,
        sink=lambda e: orders.setdefault(e.key, len(orders)),
        verify=False,
    )
    floor = measure_free_floor(
        subject.model,
        subject.call,
        subject.inputs,
        orders=orders.get,
        dtypes=("float32", "bfloat16"),
        scratch_dir=tmp_path,
    )
    assert floor.notes == ()
    assert floor.golden == {"float32": "float64", "bfloat16": "float64"}
    float32, bfloat16 = (floor.tables[d] for d in ("float32", "bfloat16"))
    assert np.array_equal(float32["order"], bfloat16["order"])
    last = float32[-1]
    assert 1e-9 < last["error"] / last["scale"] < 1e-5
    assert bfloat16[-1]["error"] > 1000 * last["error"]


def test_default_inputs_of_other_models(checkpoint):
    bert = load_hf(f"hf:{checkpoint('bert')}").inputs
    assert set(bert) == {"input_ids", "attention_mask"}
    assert (bert["attention_mask"][:, 0] == 1).all()  # padded on the right
    vit = load_hf(f"hf:{checkpoint('vit')}").inputs
    assert {k: tuple(v.shape) for k, v in vit.items()} == {"pixel_values": (2, 3, 32, 32)}
    t5 = load_hf(f"hf:{checkpoint('t5')}").inputs
    assert set(t5) == {"input_ids", "attention_mask", "decoder_input_ids"}


def test_a_prompt_is_longer_than_the_sliding_window(tmp_path):
    logging.set_verbosity_error()
    config = transformers.MistralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=60,
    )
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    assert load_hf(f"hf:{tmp_path}").inputs["input_ids"].shape == (2, 76)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_keeps_rotary_frequencies(dtype, checkpoint):
    subject = load_hf(f"hf:{checkpoint('qwen2')}", dtype=dtype)
    assert subject.model.dtype == getattr(torch, dtype)
    assert subject.model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_attention_implementation(checkpoint):
    assert load_hf(f"hf:{checkpoint('llama')}").model.config._attn_implementation == "eager"
    subject = load_hf(f"hf:{checkpoint('llama')}", attn_implementation="sdpa")
    assert subject.model.config._attn_implementation == "sdpa"


def test_a_cache_can_still_be_asked_for(checkpoint):
    subject = load_hf(f"hf:{checkpoint('qwen2')}")
    ids = subject.inputs["input_ids"]
    assert subject.call(subject.model, input_ids=ids).past_key_values is None
    assert subject.call(subject.model, input_ids=ids, use_cache=True).past_key_values is not None


def test_nothing_is_printed_and_settings_are_put_back(checkpoint, capfd):
    folder = checkpoint("qwen2")
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    capfd.readouterr()
    try:
        load_hf(f"hf:{folder}")
        assert capfd.readouterr() == ("", "")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_error()
        logging.disable_progress_bar()


class TestPrompt:
    @pytest.fixture
    def folder(self, checkpoint, tmp_path):
        tokenizers = pytest.importorskip("tokenizers")
        words = {w: i for i, w in enumerate(["<unk>", "<pad>", "a", "b", "c"])}
        model = tokenizers.models.WordLevel(words, unk_token="<unk>")
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
        )
        shutil.copytree(checkpoint("qwen2"), tmp_path, dirs_exist_ok=True)
        fast.save_pretrained(tmp_path)
        return tmp_path

    def test_rows_are_padded_on_the_left(self, folder):
        encoded = encode(f"hf:{folder}", ["a b c", "c"])
        assert encoded["input_ids"].tolist() == [[2, 3, 4], [1, 1, 4]]
        assert encoded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
        assert encoded["input_ids"].dtype == np.int64
        assert set(encoded) == {"input_ids", "attention_mask"}

    def test_one_row(self, folder):
        assert encode(f"hf:{folder}", ["b a"])["input_ids"].tolist() == [[3, 2]]

    def test_without_a_tokenizer(self, checkpoint):
        with pytest.raises(SubjectError, match=r"no tokenizer in this folder .* give --input-ids"):
            encode(f"hf:{checkpoint('qwen2')}", ["a"])


class TestErrors:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(SubjectError, match="missing: no such folder; write hf:DIR"):
            load_hf(f"hf:{tmp_path}/missing")

    def test_no_config(self, tmp_path):
        with pytest.raises(SubjectError, match=r"no config\.json in this folder"):
            load_hf(f"hf:{tmp_path}")

    def test_damaged_config(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type":')
        with pytest.raises(SubjectError, match="not a valid JSON file"):
            load_hf(f"hf:{tmp_path}")

    def test_no_weights(self, checkpoint, tmp_path):
        shutil.copy(checkpoint("qwen2") / "config.json", tmp_path)
        with pytest.raises(SubjectError, match="no weights in this folder"):
            load_hf(f"hf:{tmp_path}")

    def test_damaged_weights(self, checkpoint, tmp_path):
        shutil.copytree(checkpoint("qwen2"), tmp_path, dirs_exist_ok=True)
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(SubjectError, match="transformers raised"):
            load_hf(f"hf:{tmp_path}")

    def edited(self, checkpoint, tmp_path, **changes):
        shutil.copytree(checkpoint("qwen2"), tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        return f"hf:{tmp_path}"

    def test_unknown_architecture(self, checkpoint, tmp_path):
        spec = self.edited(checkpoint, tmp_path, architectures=["Qwen99ForCausalLM"])
        with pytest.raises(SubjectError, match=r"transformers .* has no Qwen99ForCausalLM"):
            load_hf(spec)

    def test_unknown_model_type(self, checkpoint, tmp_path):
        spec = self.edited(checkpoint, tmp_path, model_type="weird")
        with pytest.raises(SubjectError, match=r"does not know the model type .* upgrade"):
            load_hf(spec)

    def test_remote_code(self, checkpoint, tmp_path):
        spec = self.edited(
            checkpoint,
            tmp_path,
            model_type="weird",
            auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"},
        )
        with pytest.raises(SubjectError, match="allow it with --trust-remote-code"):
            load_hf(spec)

    def test_no_architecture_falls_back_to_the_base_model(self, checkpoint, tmp_path):
        spec = self.edited(checkpoint, tmp_path, architectures=None)
        assert type(load_hf(spec).model).__name__ == "Qwen2Model"

    def test_parameters_that_would_be_random(self, checkpoint, tmp_path):
        spec = self.edited(checkpoint, tmp_path, num_hidden_layers=3, layer_types=None)
        with pytest.raises(
            SubjectError, match=r"lacks 12 parameters of the model \(model.layers.2"
        ):
            load_hf(spec)

    def test_network_absent(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(SubjectError, match=r"huggingface.co cannot be reached .* hf:DIR"):
            load_hf("hf:some-org/some-model-that-is-not-cached")

    def test_impossible_options(self, checkpoint):
        with pytest.raises(OptionError, match="--dtype int8: choose one of float32"):
            load_hf(f"hf:{checkpoint('qwen2')}", dtype="int8")
        with pytest.raises(SubjectError, match="attn_implementation"):
            load_hf(f"hf:{checkpoint('qwen2')}", attn_implementation="nonsense")


def test_the_dtype_of_the_checkpoint_is_kept_where_it_was_loaded_in_another(tmp_path):
    write_checkpoint(tmp_path / "float32")
    assert "checkpoint_dtype" not in load_hf(f"hf:{tmp_path / 'float32'}").config
    narrow = load_hf(f"hf:{tmp_path / 'float32'}", dtype="bfloat16")
    assert narrow.config["checkpoint_dtype"] == "float32"
