"""Images on their way to the patches: channels, rows and columns in another order, pixels in another range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis

if TYPE_CHECKING:
    from firstdiff.diff.explain.scene import Scene

MOST_CHANNELS = 4
_Turn = Callable[[np.ndarray], np.ndarray]

LAYOUTS: dict[str, _Turn] = {
    "reversing the channels": lambda x: x[:, ::-1],
    "exchanging rows and columns": lambda x: x.swapaxes(2, 3),
    "turning the image upside down": lambda x: x[:, :, ::-1],
    "mirroring the image": lambda x: x[..., ::-1],
    "turning the image by half": lambda x: x[:, :, ::-1, ::-1],
    "turning the image to the left": lambda x: np.rot90(x, 1, (2, 3)),
    "turning the image to the right": lambda x: np.rot90(x, -1, (2, 3)),
    "reading channels last as channels first": lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape),
    "reading channels first as channels last": lambda x: x.reshape(
        x.shape[0], *x.shape[2:], x.shape[1]
    ).transpose(0, 3, 1, 2),
}
"""Orders of an image [b, channels, rows, columns]."""
RANGES: dict[str, _Turn] = {
    "dividing pixels by 255": lambda x: x / 255,
    "multiplying pixels by 255": lambda x: x * 255,
    "moving pixels from [0, 1] to [-1, 1]": lambda x: 2 * x - 1,
    "moving pixels from [-1, 1] to [0, 1]": lambda x: (x + 1) / 2,
}
"""Ranges of pixels."""
CHANGES = (
    *(Change("image layout", words) for words in LAYOUTS),
    *(Change("pixel range", words) for words in RANGES),
)
"""What is tried."""


def images(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for an image that the reference passes on as it was given."""
    target = scene.target
    if len(target.shape) != 4 or not 1 <= target.shape[1] <= MOST_CHANNELS or target.digest is None:
        return
    for activation in scene.before():
        digest = activation.digest
        if activation.shape == target.shape and digest is not None:
            if digest.checksum == target.digest.checksum:
                yield from _turned(scene.given(activation), _as_laid(scene))
            return


def _as_laid(scene: Scene) -> _Turn:
    """How the comparison lays a right image: where no way fits, channels last is read as channels first."""
    layout, channels = scene.row.layout, scene.target.shape[1]
    if layout is None or layout.kind != "reshape" or layout.own_shape[-1:] != (channels,):
        return lambda x: x
    return lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(x.shape)


def _turned(x: np.ndarray, laid: _Turn) -> Iterator[Hypothesis]:
    for cause, table in (("image layout", LAYOUTS), ("pixel range", RANGES)):
        for words, turn in table.items():
            value = turn(x)
            if value.shape == x.shape:
                yield Hypothesis(cause, words, laid(np.ascontiguousarray(value)), laid(x))
