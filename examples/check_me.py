"""A port plugged in: a small PyTorch model and its Flax port, from the same numbers.

firstdiff capture examples/check_me.py:reference -o ref.h5
firstdiff check ref.h5 examples/check_me.py:port
"""

from __future__ import annotations

from typing import Any

import numpy as np

import firstdiff

SIZES = {"layers.0": (16, 32), "layers.1": (32, 8)}


def weights() -> dict[str, np.ndarray]:
    """Kernels [in, out] and biases that matter, the same on both sides."""
    random = np.random.default_rng(0)
    drawn = {}
    for name, (fan_in, fan_out) in SIZES.items():
        drawn[f"{name}.kernel"] = random.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype("f4")
        drawn[f"{name}.bias"] = random.normal(0, 0.5, fan_out).astype("f4")
    return drawn


def reference() -> firstdiff.Subject:
    """The PyTorch side, with the inputs that both sides get."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(*size) for size in SIZES.values())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[1](torch.nn.functional.gelu(self.layers[0](x)))  # exact gelu

    net, drawn = Net().eval(), weights()
    with torch.no_grad():
        for name, layer in zip(SIZES, net.layers, strict=True):
            layer.weight.copy_(torch.from_numpy(drawn[f"{name}.kernel"].T))
            layer.bias.copy_(torch.from_numpy(drawn[f"{name}.bias"]))
    inputs = {"x": np.random.default_rng(1).normal(size=(2, 16)).astype("f4")}
    return firstdiff.Subject(model=net, inputs=inputs)


def port(approximate: bool = False) -> firstdiff.Subject:
    """The Flax side; ``approximate`` puts in the tanh approximation of gelu, a common mistake."""
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            hidden = nn.Dense(SIZES["layers.0"][1], name="layers_0")(x)
            hidden = nn.gelu(hidden, approximate=approximate)
            return nn.Dense(SIZES["layers.1"][1], name="layers_1")(hidden)

    params: dict[str, dict[str, np.ndarray]] = {}
    for name, value in weights().items():
        layer, _, leaf = name.rpartition(".")
        params.setdefault(layer.replace(".", "_"), {})[leaf] = value
    return firstdiff.Subject(
        model=params, call=lambda params, x: Net().apply({"params": params}, x)
    )


def wrong_port() -> firstdiff.Subject:
    """The port with the mistake."""
    return port(approximate=True)
