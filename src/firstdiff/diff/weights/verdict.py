"""What the audit says of one parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["right", "note", "wrong"]
"""Right; right if the code does as the weights do (a factor, another order), or harmless; wrong."""

Finding = Literal[
    "equal", "transposed", "arranged", "scaled", "offset", "reordered", "quantised", "tied", "constant", "computed",
    "neutral", "missing", "never loaded", "differs", "partly", "not transposed", "wrongly transposed", "wrong axes",
    "exchanged", "duplicated", "unused", "untied",
]  # fmt: skip
"""The finding in one word or two."""


@dataclass(frozen=True)
class Verdict:
    """One reference parameter, or a parameter that only the port has."""

    reference: str
    """Its name in the reference; empty for a parameter that only the port has."""
    port: str
    """Where it is, or should be, in the port, with slices: `layers.attn.kernel[3]`; empty when nowhere."""
    status: Status
    """Whether something is to be done."""
    finding: Finding
    """In a word."""
    transform: str = ""
    """What turns the reference's values into the port's: `transposed, [0:64] of 192, bfloat16`."""
    words: str = ""
    """What is wrong, or noteworthy, in a sentence."""
    remedy: str = ""
    """What would make it right."""
    certain: bool = True
    """False where values could not tell: constant parameters, and transposes of square matrices without convention."""
    module: str = ""
    """Path of the reference's module that owns it."""
    port_module: str = ""
    """Path of the port's."""
