"""What ports get wrong in attention: a table, one mistake a row. See `attention.Attention` for the fields."""

from __future__ import annotations

from firstdiff.diff.explain.hypothesis import Change

CHANGES = (
    Change(
        "rotary pairing",
        "rotating q and k with interleaved pairs, not half-split ones",
        {"rotary": "interleaved"},
    ),
    Change(
        "rotary pairing",
        "rotating q and k with interleaved pairs and interleaved tables",
        {"rotary": "interleaved throughout"},
    ),
    Change(
        "rotary pairing",
        "rotating q and k with half-split pairs, not interleaved ones",
        {"rotary": "half"},
    ),
    Change(
        "rotary pairing",
        "rotating q alone with interleaved pairs",
        {"rotary": "interleaved", "rotary_k": "half"},
    ),
    Change(
        "rotary pairing", "rotating k alone with interleaved pairs", {"rotary_k": "interleaved"}
    ),
    Change("rotary direction", "rotating q and k backwards", {"rotary": "negative"}),
    Change("rotary direction", "rotating k backwards", {"rotary_k": "negative"}),
    Change("rotary direction", "exchanging cos and sin", {"rotary": "cos and sin exchanged"}),
    Change("rotary missing", "leaving q and k unrotated", {"rotary": "none"}),
    Change("rotary missing", "leaving k unrotated", {"rotary_k": "none"}),
    Change("rotary missing", "leaving q unrotated", {"rotary": "none", "rotary_k": "half"}),
    Change("position offset", "rotating q by the next position", {"shift_q": 1}),
    Change("cache position", "rotating the last token by the next position", {"ahead_last": 1}),
    Change("cache slot empty", "leaving the last key and value empty", {"empty_last": True}),
    Change(
        "grouped-query head order",
        "tiling key-value heads (0 1 0 1), not repeating them (0 0 1 1)",
        {"repeat": "tiled"},
    ),
    Change("attention mask missing", "attending without any mask", {"mask": "none"}),
    Change("padding mask", "attending to padded tokens", {"mask": "causal"}),
    Change("causal mask", "attending to later tokens", {"mask": "padding"}),
    Change("causal mask", "attending to earlier tokens only", {"mask": "causal and padding"}),
    Change("causal mask", "attending to one token too many ahead", {"mask": "one later"}),
    Change(
        "causal mask", "attending to earlier tokens without the token itself", {"mask": "strict"}
    ),
    Change("mask inverted", "attending where the mask hides", {"mask": "inverse"}),
    Change("mask fill too weak", "adding -10 where the mask hides", {"fill": -10.0}),
    Change("mask fill too weak", "adding -100 where the mask hides", {"fill": -100.0}),
    Change("mask fill too weak", "adding -1 where the mask hides", {"fill": -1.0}),
    Change(
        "sliding window",
        "attending without the sliding window",
        {"window": 0, "mask": "causal and padding"},
    ),
    Change("softmax axis", "taking the softmax over the queries", {"softmax": "queries"}),
    Change("softmax missing", "leaving out the softmax", {"softmax": "none"}),
    Change("missing transpose", "merging the heads by a reshape alone", {"merge": "heads first"}),
    Change("missing transpose", "splitting the heads by a reshape alone", {"split": "heads first"}),
    Change("head layout", "merging the heads channel by channel", {"merge": "channels first"}),
    Change("head layout", "splitting the heads channel by channel", {"split": "channels first"}),
    Change(
        "head layout",
        "splitting and merging the heads channel by channel",
        {"split": "channels first", "merge": "channels first"},
    ),
    Change(
        "keys and values exchanged",
        "exchanging the keys and the values after the rotation",
        {"swapped": "after"},
    ),
    Change(
        "keys and values exchanged",
        "exchanging the keys and the values before the rotation",
        {"swapped": "before"},
    ),
    Change("score cap", "attending without the cap on the scores", {"cap": 0.0}),
    Change(
        "low precision", "rounding the softmax to bfloat16", {"rounded": "softmax"}, precision=True
    ),
    Change(
        "low precision",
        "rounding the softmax to float16",
        {"rounded": "softmax", "dtype": "float16"},
        precision=True,
    ),
    Change(
        "low precision",
        "rounding the probabilities to bfloat16",
        {"rounded": "probabilities"},
        precision=True,
    ),
    Change(
        "low precision", "rounding the scores to bfloat16", {"rounded": "scores"}, precision=True
    ),
    Change(
        "low precision", "rounding q, k and v to bfloat16", {"rounded": "operands"}, precision=True
    ),
    Change(
        "low precision",
        "rounding q, k and v to TF32",
        {"rounded": "operands", "dtype": "TF32"},
        precision=True,
    ),
)
"""Single mistakes. A row that is the right semantics of the model at hand is left out when it is used."""

SCALE = "attention scale"
"""Scales are tried by value, because their values depend on the sizes of the model; and measured."""
BASE = "rotary base"
"""Rotary bases likewise."""
CUT = "fused projection order"
"""Orders of queries, keys and values in one projection: `fused.CUTS`."""
