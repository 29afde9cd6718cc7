"""What a port returns. Apart, so that a port with a seeded fault returns the very same type."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax


class CausalLMOutput(NamedTuple):
    """Named as Hugging Face's output, so that both sides' leaves are called `logits`."""

    logits: jax.Array
    """[batch, tokens, vocab_size], in the model's dtype."""
