"""Seeded faults that show in decoding alone. Apart from the catalogue, whose faults one forward pass shows.

The activation of each is that of step 1, the first token after the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from firstdiff.models.fault import Fault
from firstdiff.models.qwen2 import wrong_decoding as wrong

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DECODING_FAULTS"]

_CORE = ("layers.0.self_attn", "layers.0.self_attn.o_proj")
_MASK = ("", "layers.0")
_POSITIONS = ("", "rotary_emb")

DECODING_FAULTS: dict[str, Fault] = {}
"""By name, for the ports that have a cache."""


def _seed(
    name: str, sentence: str, cause: str, place: tuple[str, str], **functions: Callable[..., Any]
) -> None:
    module, activation = place
    DECODING_FAULTS[name] = Fault(
        name, sentence, cause, module, activation, site="input", functions=functions
    )


_seed(
    "cache_one_late",
    "New keys and values are written one place too late.",
    "cache slot",
    _CORE,
    write_cache=wrong.write_one_late,
)
_seed(
    "cache_first_place",
    "New keys and values are all written into the first place.",
    "cache slot",
    _CORE,
    write_cache=wrong.write_first,
)
_seed(
    "positions_anew",
    "Positions begin anew with every step, so the rotation of new tokens is not offset.",
    "rotary offset in decoding",
    _POSITIONS,
    cached_position_ids=wrong.positions_anew,
)
_seed(
    "positions_with_padding",
    "Positions of new tokens count the padding on the left.",
    "padded positions in decoding",
    _POSITIONS,
    cached_position_ids=wrong.positions_with_padding,
)
_seed(
    "mask_one_short",
    "A new token does not see itself.",
    "mask in decoding",
    _MASK,
    cached_mask=wrong.mask_one_short,
)
_seed(
    "mask_without_padding",
    "New tokens see the padding.",
    "mask in decoding",
    _MASK,
    cached_mask=wrong.mask_without_padding,
)
