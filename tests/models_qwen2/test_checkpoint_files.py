"""What is written, what is read back, and what is refused; Hugging Face is the judge of the files."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from firstdiff.models import checkpoint as checkpoint_module
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.qwen2 import TINY, Qwen2Config, subject
from firstdiff.models.qwen2 import safetensors as files
from firstdiff.models.qwen2.names import names
from firstdiff.models.qwen2.weights import Weights
from firstdiff.traces.errors import OptionError, SubjectError

Checkpoint = Callable[..., Path]
Q = "model.layers.0.self_attn.q_proj.weight"


def rewritten(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of ``folder`` whose tensors ``change`` edited, written by the reference implementation."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    (target / "config.json").write_text((folder / "config.json").read_text())
    safetensors.torch.save_file(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hugging_face_loads_every_tensor_and_finds_none_too_many(
    checkpoint: Checkpoint, dtype: str, shards: int
) -> None:
    folder = checkpoint(dtype=dtype, shards=shards)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype="auto"
        )
    assert model.dtype == getattr(torch, dtype)
    assert not any(report.values()), report
    tensors = files.Tensors(folder)
    for name, right in model.state_dict().items():
        if name != "lm_head.weight":
            assert np.array_equal(tensors.read(name).astype(np.float32), right.float().numpy()), (
                name
            )


def test_the_tokenizer_is_one_of_bytes(tiny: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    assert tokenizer("aß ")["input_ids"] == [byte + 1 for byte in "aß ".encode()]
    assert tokenizer.decode(tokenizer("a ß")["input_ids"]) == "a ß"
    batch = tokenizer(["ab", "a"], padding=True)
    assert batch["input_ids"] == [[98, 99], [0, 98]]


def test_sharding_changes_nothing_but_the_files(checkpoint: Checkpoint, judge: Any) -> None:
    single, sharded = files.Tensors(checkpoint()), files.Tensors(checkpoint(shards=3))
    assert len(list(sharded.folder.glob("*.safetensors"))) == 3
    assert single.stored.keys() == sharded.stored.keys()
    for name in single.stored:
        assert np.array_equal(single.read(name), sharded.read(name))
    inputs = discriminating_inputs()
    made = subject("linen", sharded.folder)
    assert judge.ratio(made.call(made.model, **inputs).logits, single.folder, inputs) < 2


def test_seeds_differ_and_repeat(checkpoint: Checkpoint, tmp_path: Path) -> None:
    again = write_checkpoint(tmp_path, seed=0)
    first, other = checkpoint(), checkpoint(seed=1)
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert not np.array_equal(files.Tensors(first).read(Q), files.Tensors(other).read(Q))


def test_weights_discriminate(tiny: Path) -> None:
    tensors = files.Tensors(tiny)
    for name in names(TINY):
        values = tensors.read(name.hf)
        if name.leaf == "bias":
            assert np.abs(values).min() > 0
        if name.leaf == "scale":
            assert np.abs(np.log(values)).max() > 0.2
    square = tensors.read("model.layers.0.self_attn.o_proj.weight")
    assert square.shape[0] == square.shape[1]
    inputs = discriminating_inputs()
    assert inputs["input_ids"].shape == (2, 48)
    assert inputs["attention_mask"].sum(axis=1).tolist() == [48, 42]
    assert not inputs["attention_mask"][1, :6].any()


def test_drawing_in_blocks_gives_the_same_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "BLOCK", 1000)
    small = write_checkpoint(tmp_path)
    assert (small / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_bfloat16_is_kept_and_casts_are_rounded_once(checkpoint: Checkpoint, tiny: Path) -> None:
    kept = Weights(checkpoint(dtype="bfloat16"), TINY).load(stacked=False)
    cast = Weights(tiny, TINY, dtype="bfloat16").load(stacked=False)
    assert {array.dtype for array in kept.values()} == {jnp.dtype("bfloat16")}
    for leaf, array in kept.items():
        assert np.array_equal(np.asarray(array), np.asarray(cast[leaf]))


def test_kernels_are_transposed_and_layers_stacked(tiny: Path) -> None:
    tensors, weights = files.Tensors(tiny), Weights(tiny, TINY)
    loop, stack = weights.load(stacked=False), weights.load(stacked=True)
    gate = "model.layers.{}.mlp.gate_proj.weight"
    for layer in range(2):
        right = tensors.read(gate.format(layer)).T
        assert np.array_equal(loop["layers", layer, "mlp", "gate_proj", "kernel"], right)
        assert np.array_equal(stack["layers", "mlp", "gate_proj", "kernel"][layer], right)
    straight = weights.load(stacked=False, transpose=False)
    assert straight["layers", 0, "mlp", "gate_proj", "kernel"].shape == (176, 64)


def test_loaded_weights_do_not_hang_on_the_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    loaded = Weights(folder, TINY).load(stacked=False)["embed_tokens", "embedding"]
    before = np.array(loaded)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100_000)
    assert np.array_equal(loaded, before)


def test_what_follows_from_the_configuration_is_ignored(tiny: Path, tmp_path: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    assert Weights(rewritten(tiny, tmp_path, add), TINY).load(stacked=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(Q), rf"missing: {Q}"),
        (lambda t: t.update(extra=torch.ones(3)), "unexpected: extra"),
        (
            lambda t: t.update({Q: torch.ones(64, 32)}),
            rf"{Q} is \[64, 32\], the config wants \[64, 64\]",
        ),
        (lambda t: t.update({Q: torch.ones(64, 64, dtype=torch.int8)}), "stored as I8"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tiny: Path, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(SubjectError, match=message):
        subject("linen", rewritten(tiny, tmp_path, change))


def test_files_that_are_not_whole_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="no such folder"):
        files.Tensors(tmp_path / "absent")
    with pytest.raises(SubjectError, match=r"no model\.safetensors"):
        files.Tensors(tmp_path)
    whole = (tiny / "model.safetensors").read_bytes()
    file = tmp_path / "model.safetensors"
    for size, message in (
        (3, "no complete"),
        (100, "no complete"),
        (len(whole) - 1, "truncated, .*ends at"),
    ):
        file.write_bytes(whole[:size])
        with pytest.raises(SubjectError, match=message):
            files.Tensors(tmp_path)
    file.write_bytes((8).to_bytes(8, "little") + b"not json")
    with pytest.raises(SubjectError, match="header"):
        files.Tensors(tmp_path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(SubjectError, match="bytes of a"):
        files.Tensors(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SubjectError, match=r"model-00002-of-00002\.safetensors: missing"):
        files.Tensors(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(SubjectError, match="no index of shards"):
        files.Tensors(folder)


def test_options_that_cannot_be_are_refused(tmp_path: Path, tiny: Path) -> None:
    for options in ({"config": "9B"}, {"dtype": "int8"}, {"shards": 0}, {"shards": 99}):
        with pytest.raises(OptionError):
            write_checkpoint(tmp_path, **options)
    with pytest.raises(SubjectError, match="dtype int8"):
        subject("linen", tiny, dtype="int8")


def test_written_values_are_bfloat16_roundings(tmp_path: Path) -> None:
    values = np.linspace(-3, 3, 1000, dtype=np.float32)
    file = tmp_path / "x.safetensors"
    files.write(file, {"x": (10, 100)}, "bfloat16", [values[:300], values[300:]])
    read = safetensors.torch.load_file(file)["x"]
    assert np.array_equal(
        read.float().numpy().ravel(), values.astype(ml_dtypes.bfloat16).astype(np.float32)
    )
    with pytest.raises(ValueError, match="the shapes want"):
        files.write(file, {"x": (10, 100)}, "bfloat16", [values[:300]])


def test_head_dim_may_differ_from_hidden_over_heads(checkpoint: Checkpoint, judge: Any) -> None:
    config = dataclasses.replace(TINY, head_dim=24)
    folder, inputs = checkpoint(config=config), discriminating_inputs()
    assert Qwen2Config.from_hf(folder) == config
    made = subject("nnx", folder)
    assert judge.ratio(made.call(made.model, **inputs).logits, folder, inputs) < 2
