"""`firstdiff map` and `--map`: from traces alone, from JAX subjects, and back into a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gated_models import State, linen_subject, torch_subject

import firstdiff
from firstdiff.auditing import map_modules
from firstdiff.diff.weights.maptext import toml
from firstdiff.traces.errors import OptionError


@pytest.fixture(scope="module")
def port(weights: State, ids: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a linen port whose names say nothing."""
    path = tmp_path_factory.mktemp("port") / "port.h5"
    subject = linen_subject(weights, opaque=True)
    firstdiff.capture(subject, path, inputs={"ids": ids.numpy()}, verify=False)
    return path


def test_two_traces_are_mapped_as_two_models(reference: Path, port: Path, weights: State) -> None:
    traced = {(p.reference, p.port) for p in map_modules(reference, port).pairs}
    models = map_modules(torch_subject(weights), linen_subject(weights, opaque=True))
    assert traced
    assert traced == {(p.reference, p.port) for p in models.pairs if p.reference in dict(traced)}


def test_a_jax_subject_lists_what_runs(reference: Path, weights: State) -> None:
    """linen knows modules without parameters only while they run: the reference's inputs are enough."""
    found = map_modules(reference, linen_subject(weights))
    assert found.port_of("layers.0") == "layers_0"
    assert found.port_of("layers.1.mlp.down_proj") == "layers_1.mlp.down_proj"
    assert found.port_only == ()


def test_the_whole_map_is_read_back(reference: Path, port: Path, tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text(toml(map_modules(reference, port)))
    mapped, plain = firstdiff.diff(reference, port, map=file), firstdiff.diff(reference, port)
    assert mapped.exit_code == 0
    assert mapped.counts.pairs == plain.counts.pairs
    assert mapped.counts.evidence["map"] >= 20


def test_a_map_overrides_weights_by_glob(
    reference: Path, weights: State, ids: torch.Tensor, tmp_path: Path
) -> None:
    port = tmp_path / "port.h5"
    firstdiff.capture(linen_subject(weights), port, inputs={"ids": ids.numpy()}, verify=False)
    crossed = firstdiff.diff(
        reference, port, map={"layers.*.mlp.gate_proj": "layers_*.mlp.up_proj"}
    )
    made = {
        (row.pair.reference.key.path, row.pair.port.key.path): row.pair.evidence
        for row in crossed.rows
        if row.pair is not None
    }
    assert made["layers.0.mlp.gate_proj", "layers_0.mlp.up_proj"] == "map"
    assert made["layers.0.mlp.down_proj", "layers_0.mlp.down_proj"] == "weights"


def test_a_stale_map_names_its_entry(reference: Path, port: Path) -> None:
    with pytest.raises(OptionError, match=r"entry 'layers.\*.mlp' = 'blocks.\*.ff' is stale"):
        firstdiff.diff(reference, port, map={"layers.*.mlp": "blocks.*.ff"})


def test_keras_models_are_mapped(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend")
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.layers.Dense(8, name="wide"),
            keras.layers.ReLU(name="act"),
            keras.layers.Dense(6, name="narrow"),
        ],
        name="ff",
    )
    model = keras.Sequential([keras.Input((6,)), inner, keras.layers.Dense(4, name="out")])
    reference = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6)),
        torch.nn.Linear(6, 4),
    )
    for layer, dense in (
        (reference[0][0], inner.layers[0]),
        (reference[0][2], inner.layers[2]),
        (reference[1], model.layers[-1]),
    ):
        dense.set_weights([layer.weight.detach().numpy().T, layer.bias.detach().numpy()])
    torch_side = firstdiff.Subject(model=reference, call=lambda m, x: m(x), name="torch")
    keras_side = firstdiff.Subject(
        model=model, call=lambda m, x: m(x), framework="keras", name="keras"
    )
    found = map_modules(torch_side, keras_side)
    pairs = {p.reference: p.port for p in found.pairs}
    assert pairs == {
        "": "",
        "0": "ff",
        "0.0": "ff.wide",
        "0.1": "ff.act",
        "0.2": "ff.narrow",
        "1": "out",
    }
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    firstdiff.capture(torch_side, tmp_path / "ref.h5", inputs={"x": x}, floor=["float32"])
    result = firstdiff.check(tmp_path / "ref.h5", keras_side, replay=False, verify=False)
    assert result.exit_code == 0, result.summary
    assert result.weights == "6/6 equal (3 transposed)"
    assert result.counts.evidence["weights"] >= 8
