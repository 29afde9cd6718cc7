"""The causes that an explanation can name, and for each what it means and what to do. A table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.explain import (
    attention_changes,
    embedding,
    experts,
    images,
    linear,
    norms,
    patches,
    pooling,
    rotary,
    router,
    signatures,
    summands,
)
from firstdiff.diff.explain.activations import FUNCTIONS
from firstdiff.diff.explain.fused import CUTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.explain.hypothesis import Change


@dataclass(frozen=True)
class Cause:
    """A class of mistake."""

    name: str
    """What it is called."""
    remedy: str
    """Where to look, one sentence."""


_TABLE = (
    (
        "rotary pairing",
        "Check which channels rotate together: halves (Hugging Face) or neighbours (Meta).",
    ),
    ("rotary direction", "Check the signs in rotate_half, and that cos and sin are not exchanged."),
    ("rotary missing", "Apply the rotary embedding to q and k, in every layer that has it."),
    ("rotary base", "Read rope_theta from the configuration."),
    (
        "rotary scaling",
        "Read rope_scaling (rope_parameters) from the configuration and apply it to the frequencies.",
    ),
    ("position offset", "Count positions from 0; a cache adds its length once."),
    (
        "positions of padded rows",
        "Derive positions from the attention mask where the reference does, and only there.",
    ),
    ("cache position", "The new token's position is the length of the cache, not one more."),
    ("cache slot empty", "Write the new key and value before they are attended to."),
    ("grouped-query head order", "Repeat each key-value head for its group (repeat, not tile)."),
    (
        "attention scale",
        "Divide the scores by sqrt(head_dim), or by what the configuration says, once.",
    ),
    ("score cap", "Apply the soft cap of the configuration to the scores."),
    ("attention mask missing", "Pass the mask to every attention."),
    ("padding mask", "Combine the padding mask with the causal one."),
    ("causal mask", "Hide later tokens, and nothing else: key <= query."),
    ("mask inverted", "True means visible on one side and hidden on the other."),
    ("mask transposed", "Queries are rows, keys are columns."),
    ("mask fill too weak", "Use the dtype's lowest number, or where, instead of a small constant."),
    (
        "sliding window",
        "Compare sliding_window and use_sliding_window, and whether the window counts the token itself.",
    ),
    ("fully masked rows", "Use a large finite number instead of -inf, or leave padded rows out."),
    ("overflow", "Compute in a wider dtype."),
    ("softmax axis", "Take the softmax over the keys, the last axis."),
    ("softmax missing", "Apply the softmax to the scores."),
    ("missing transpose", "Swap heads and tokens before splitting or merging heads by a reshape."),
    (
        "head layout",
        "A head's channels lie side by side: [heads, head_dim], not [head_dim, heads].",
    ),
    ("keys and values exchanged", "Check the order of arguments."),
    (
        "fused projection order",
        "Cut the fused projection as the checkpoint's family stores it: query, key, value, or head by head.",
    ),
    ("norm epsilon", "Read the epsilon from the configuration, and add it to the variance."),
    (
        "norm scale convention",
        "Some families (Gemma) store the scale minus one; add one in one place.",
    ),
    ("norm scale missing", "Load the norm's scale; it stayed at one."),
    ("norm scale twice", "Multiply by the scale once."),
    ("norm bias missing", "Load the norm's bias; it stayed at zero."),
    ("layer norm for RMS norm", "An RMS norm does not subtract the mean."),
    ("RMS norm for layer norm", "A layer norm subtracts the mean."),
    ("unbiased variance", "Norms divide by n, not by n - 1."),
    ("module skipped", "Call the module."),
    (
        "activation function",
        "Compare hidden_act; gelu means erf in PyTorch and tanh in JAX by default.",
    ),
    (
        "activation on the wrong branch",
        "The activation belongs to the gate, not to the other branch.",
    ),
    ("gate", "Compare the gated product with the reference's."),
    ("residual connection", "Add the branch to what the block was given, once."),
    ("tokens shifted", "Compare slices along the sequence."),
    ("bias missing", "Load the bias: it stayed zero, or the layer was made without one."),
    ("bias doubled", "Add the bias once; with tensor parallelism on one rank alone."),
    ("bias permuted", "Compare how the bias is cut into heads."),
    ("bias swapped", "Compare the table of weight names."),
    ("kernel transposed", "PyTorch stores [out, in], JAX [in, out]: transpose, do not reshape."),
    ("weights swapped", "Compare the table of weight names."),
    ("head not tied", "Use the embedding as the head's kernel (tie_word_embeddings)."),
    ("kernel unrelated", "The kernel was never loaded, or another one was."),
    (
        "kernel rearranged",
        "The kernel's rows or columns are in another order: compare the conversion of weights.",
    ),
    ("few channels", "A few rows of the kernel are damaged: compare the weights of this module."),
    ("token ids shifted", "Compare offsets of the vocabulary."),
    (
        "token types missing",
        "Add the embedding of the token types, also where all of them are 0.",
    ),
    ("position embedding missing", "Add the learned positions."),
    ("position embedding", "Keep the order of the learned positions when the table is loaded."),
    ("patch order", "Number the patches row by row before they become tokens."),
    (
        "class token",
        "Put the class token in front, with a position of its own, and load it.",
    ),
    ("pooled token", "Pool what the reference pools: the first token, the last real one, a mean."),
    ("image layout", "Compare channels first or last, RGB or BGR, rows and columns."),
    ("pixel range", "Scale pixels as the reference's processor does."),
    (
        "router weights",
        "Compare softmax before or after the choice, whether the weights add up to one, and where they are used.",
    ),
    ("number of experts", "Read num_experts_per_tok from the configuration."),
    ("embedding scale", "Multiply the embedding as the reference does, in its dtype."),
    (
        "low precision",
        "Compute as precisely: jax_default_matmul_precision, float32 in norms and softmax.",
    ),
    ("scale", "One factor too many or too few."),
    ("constant offset", "A bias is missing or another one's: compare the weights of this module."),
    ("channel scale", "A scale is missing or another one's: compare the weights of this module."),
    ("token scale", "A normaliser differs: its epsilon, its divisor, or routing weights."),
    (
        "channel permutation",
        "Output channels are in another order (heads, rotary pairs): compare weight conversion.",
    ),
)

CAUSES: dict[str, Cause] = {name: Cause(name, remedy) for name, remedy in _TABLE}
"""Every cause by name."""

_WITHOUT_ROWS = {
    "position offset": ("comparing positions exactly", "rotating by other positions"),
    "positions of padded rows": ("comparing positions exactly",),
    "mask transposed": ("comparing masks exactly",),
    "fully masked rows": ("finding NaN at padded tokens alone",),
    "overflow": ("finding infinities where the reference is beyond the dtype's largest number",),
    "attention scale": (
        "other scales by name: 1, 1/head_dim, 1/sqrt(hidden_size), ...",
        "the scale that fits best, measured",
    ),
    "rotary base": ("bases of published models", "the base that fits best, measured"),
    "rotary scaling": ("leaving out the configured scaling", "the factor that fits best, measured"),
    "norm epsilon": ("the epsilon that fits best, measured",),
    "sliding window": ("windows near the configured one",),
    "activation function": tuple(f"applying {name}" for name in FUNCTIONS),
    "activation on the wrong branch": (
        "applying the function to the other operand of the product",
    ),
    "fused projection order": tuple(f"cutting it into {name}" for name in CUTS),
    "score cap": ("leaving out the soft cap on the logits, or another one",),
    "number of experts": ("comparing the chosen experts exactly",),
    "padding mask": ("comparing masks exactly",),
    "gate": ("other operands, and a sum, instead of the recorded product",),
    "residual connection": ("other operands, and other multiples, instead of the recorded sum",),
    "module skipped": ("passing on another recorded tensor",),
    "head not tied": ("multiplying the head's input by the recorded rows of the embedding",),
    "kernel rearranged": ("fitting a kernel to the port's own inputs and results",),
    "kernel unrelated": ("fitting a kernel to the port's own inputs and results",),
}


def tests_of(cause: str) -> tuple[str, ...]:
    """What is tried for ``cause``, in words."""
    changes: Iterable[Change] = (
        *attention_changes.CHANGES,
        *norms.CHANGES,
        *norms.KINDS,
        norms.SKIPPED,
        norms.OTHERS,
        *rotary.CHANGES,
        *rotary.PRECISION,
        *linear.CHANGES,
        *embedding.CHANGES,
        *signatures.CHANGES,
        *(
            change
            for table in (summands, patches, pooling, images, router, experts)
            for change in table.CHANGES
        ),
    )
    rows = tuple(change.words for change in changes if change.cause == cause)
    return (*rows, *_WITHOUT_ROWS.get(cause, ()))


HEAD = """# Causes

What `firstdiff` can name as the cause of a first divergence, and what it tries. Made from the tables in
`src/firstdiff/diff/explain/`; do not edit.

A hypothesis is *applied*: the wrong computation is carried out in float64 on the recorded inputs and held against the
port's tensor. First the right computation has to reproduce the reference's own tensor to rounding, otherwise nothing
of that kind is tried. A hypothesis is named as the cause when

- the error left is below 3 times the rounding floor, less than half of the error before, and that of every other
  cause at least 1.5 times larger; where numbers were fitted to the port's tensor, the error before is above 8; or
- for effects of the size of rounding, the matched amplitude <err, d> / <d, d> is within 0.3 of 1, d being the
  effect, and rms(d) more than 0.3 of rms(err); fitting makes it 1 and is no evidence; or
- for losses of precision, whose exact roundings nobody knows, the error correlates with theirs by more than 0.7.

Otherwise up to three hints are given, with the error that is left after each.

Adding one is an afternoon's work: a row in a table (`attention_changes.CHANGES`, `norms.CHANGES`,
`activations.FUNCTIONS`, ...), or a short file with one function from a scene to hypotheses, listed in
`explanation.FAMILIES`; and a row here, in `causes._TABLE`, if the cause is new. Then make this page anew:
`python -m firstdiff.diff.explain.causes > docs/causes.md`.
"""


def page() -> str:
    """`docs/causes.md`."""
    parts = [HEAD]
    for cause in CAUSES.values():
        tried = "\n".join(f"- {words}" for words in tests_of(cause.name))
        parts.append(f"## {cause.name}\n\n{cause.remedy}\n\n{tried}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
