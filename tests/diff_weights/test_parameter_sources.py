"""The same few weights as every framework holds them, and what the audit reads of each."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import linen as nn
from flax import nnx

from firstdiff.auditing import weights
from firstdiff.models.checkpoint import write_checkpoint
from firstdiff.models.parameters import parameters_of
from firstdiff.models.qwen2.ports import PORTS, subject
from firstdiff.models.subject import Subject
from firstdiff.traces.errors import OptionError, SubjectError


class Small(torch.nn.Module):
    """A square Linear with a bias, a norm with running statistics, an embedding whose matrix is the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(12, 6)
        self.fc = torch.nn.Linear(6, 6)
        self.norm = torch.nn.BatchNorm1d(6)
        self.head = torch.nn.Linear(6, 12, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        for tensor in [*self.parameters(), self.norm.running_mean, self.norm.running_var]:
            tensor.data = torch.from_numpy(
                np.random.default_rng(tensor.numel()).normal(size=tensor.shape).astype("f4")
            )


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def test_torch_names_classes_ties_and_buffers(small: Small) -> None:
    found = {p.name: p for p in parameters_of(Subject(model=small))}
    assert found["embed.weight"].aliases == ("head.weight",)
    assert "head.weight" not in found
    assert (found["fc.weight"].class_name, found["fc.weight"].framework) == ("Linear", "torch")
    assert {name: p.kind for name, p in found.items() if p.kind != "parameter"} == {
        "norm.running_mean": "buffer",
        "norm.running_var": "buffer",
        "norm.num_batches_tracked": "buffer",
        "table": "computed",
    }


def as_tree(small: Small, turn: bool) -> dict[str, np.ndarray]:
    state = {name: value.detach().numpy() for name, value in small.state_dict().items()}
    return {
        name: value.T.copy() if turn and name == "fc.weight" else value
        for name, value in state.items()
    }


def test_linen_variables(small: Small) -> None:
    tree = as_tree(small, turn=True)
    variables = {
        "params": {
            "embed": {"embedding": tree["embed.weight"]},
            "fc": {"kernel": tree["fc.weight"], "bias": tree["fc.bias"]},
            "norm": {"scale": tree["norm.weight"], "bias": tree["norm.bias"]},
        },
        "batch_stats": {
            "norm": {"mean": tree["norm.running_mean"], "var": tree["norm.running_var"]}
        },
    }
    variables = jax.tree.map(jnp.asarray, variables)
    port = Subject(model=variables, framework="linen")
    assert {p.name: p.kind for p in parameters_of(port)}["norm.mean"] == "buffer"
    result = weights(Subject(model=small), port)
    assert result.exit_code == 0, [v.words for v in result.wrong]
    variables["params"]["fc"]["kernel"] = variables["params"]["fc"]["kernel"].T
    assert [v.finding for v in weights(Subject(model=small), port).wrong] == ["not transposed"]
    assert nn.Dense(6).apply({"params": variables["params"]["fc"]}, jnp.ones((1, 6))).shape == (
        1,
        6,
    )


def test_nnx_module_and_state(small: Small) -> None:
    layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(small.fc.weight.detach().numpy().T)
    layer.bias[...] = jnp.asarray(small.fc.bias.detach().numpy())
    reference = Subject(model=small.fc)
    for model in (layer, nnx.state(layer)):
        assert weights(reference, Subject(model=model)).exit_code == 0


def test_equinox_keeps_the_reference_layout(small: Small) -> None:
    layer = eqx.nn.Linear(6, 6, key=jax.random.key(0))
    weight = jnp.asarray(small.fc.weight.detach().numpy())
    right = eqx.tree_at(
        lambda m: (m.weight, m.bias), layer, (weight, jnp.asarray(small.fc.bias.detach().numpy()))
    )
    assert weights(Subject(model=small.fc), Subject(model=right)).exit_code == 0
    wrong = eqx.tree_at(lambda m: m.weight, right, weight.T)
    (verdict,) = weights(Subject(model=small.fc), Subject(model=wrong)).wrong
    assert verdict.finding == "wrongly transposed"


def test_haiku_parameters(small: Small) -> None:
    made = hk.transform(lambda x: hk.Linear(6, name="fc")(x)).init(
        jax.random.key(0), jnp.ones((1, 6))
    )
    assert set(made) == {"fc"}
    tree = {
        "fc": {
            "w": jnp.asarray(small.fc.weight.detach().numpy().T),
            "b": jnp.asarray(small.fc.bias.detach().numpy()),
        }
    }
    result = weights(Subject(model=small.fc), Subject(model=tree, framework="haiku"))
    assert result.exit_code == 0
    assert {v.port for v in result.verdicts} == {"fc.w", "fc.b"}


def test_keras_model(small: Small) -> None:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend here")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, name="fc")])
    model.layers[0].set_weights(
        [small.fc.weight.detach().numpy().T, small.fc.bias.detach().numpy()]
    )
    result = weights(Subject(model=small.fc), Subject(model=model))
    assert result.exit_code == 0
    assert {v.finding for v in result.verdicts} == {"transposed", "equal"}


def test_a_plain_tree_of_layers(small: Small) -> None:
    tree = {
        "layers": [
            {
                "w": jnp.asarray(small.fc.weight.detach().numpy()),
                "b": jnp.asarray(small.fc.bias.detach().numpy()),
            }
        ]
    }
    names = [p.name for p in parameters_of(Subject(model=tree, framework="functions"))]
    assert names == ["layers.0.b", "layers.0.w"]


@pytest.mark.parametrize("shards", [1, 3])
def test_checkpoints_single_and_sharded(tmp_path: Path, shards: int) -> None:
    one = write_checkpoint(tmp_path / "one", shards=shards)
    other = write_checkpoint(tmp_path / "other", dtype="bfloat16")
    result = weights(one, other)
    assert result.exit_code == 0
    assert result.right == result.parameters == len(parameters_of(one))


def test_a_single_file_with_every_dtype(tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    tensors = {
        "a": torch.arange(6, dtype=torch.int8),
        "b": torch.ones(3, dtype=torch.bool),
        "c": torch.randn(4).to(torch.float8_e4m3fn),
    }
    safetensors.torch.save_file(tensors, file)
    found = {p.name: p for p in parameters_of(file)}
    assert {name: p.dtype for name, p in found.items()} == {
        "a": "int8",
        "b": "bool",
        "c": "float8_e4m3fn",
    }
    assert found["a"].load is not None
    assert found["a"].load().tolist() == list(range(6))


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ck")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SubjectError, match=r"model\.safetensors: truncated, .* copy it again"):
        parameters_of(folder)


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no weights; give a safetensors file"):
        parameters_of(tmp_path)
    with pytest.raises(SubjectError, match="no parameters found in a int"):
        parameters_of(Subject(model=3))


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("scan", [False, True])
def test_the_readable_ports_are_right(tmp_path: Path, port: str, scan: bool) -> None:
    folder = write_checkpoint(tmp_path)
    result = weights(folder, subject(port, folder, scan=scan))
    assert result.exit_code == 0, [v.words for v in result.wrong]


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("q_bias_missing", "never loaded"),
        ("o_proj_transposed", "not transposed"),
        ("gate_up_swapped", "exchanged"),
        ("norms_swapped", "exchanged"),
        ("head_untied", "untied"),
    ],
)
def test_seeded_conversion_faults_are_found(tmp_path: Path, fault: str, finding: str) -> None:
    folder = write_checkpoint(tmp_path)
    result = weights(folder, subject("linen", folder, fault=fault))
    assert {v.finding for v in result.wrong} == {finding}
