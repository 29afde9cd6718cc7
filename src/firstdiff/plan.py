"""What a capture is to record, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import OptionError
from firstdiff.traces.schema import Level

if TYPE_CHECKING:
    from firstdiff.decoding import Decoding


@dataclass(frozen=True)
class Plan:
    """What is to be recorded, and how."""

    selection: Selection
    """Which activations are kept."""
    verify: bool = True
    """Whether the output is compared with that of a plain run."""
    mode: Literal["jit", "eager"] = "jit"
    """`jit` or `eager`, for JAX."""
    exact: bool = False
    """Compile JAX without excess precision."""
    stream: bool = False
    """Write each value while the JAX model runs."""
    passes: int = 1
    """Run JAX that many times and record a slice each time."""
    max_iterations: int | None = None
    """Keep that many first iterations of JAX's while loops instead of the last one."""
    floor: tuple[str, ...] | None = ()
    """Dtypes whose noise floor is recorded; None means the model's own and bfloat16."""
    digest: bool = False
    """Whether elements are left out."""
    decoding: Decoding | None = None
    """How far to decode after the prompt; None records one forward pass."""
    progress: Callable[[str], None] = lambda _message: None
    """Is told what is going on."""


def selection_of(
    globs: Sequence[str],
    inputs_only: bool,
    outputs_only: bool,
    level: str,
    inside: Sequence[str] = (),
) -> Selection:
    """The selection that the options of a capture ask for; OptionError where they make no sense."""
    return Selection(tuple(globs), _sites(inputs_only, outputs_only), _level(level), tuple(inside))


def _sites(inputs_only: bool, outputs_only: bool) -> tuple[Any, ...]:
    if inputs_only and outputs_only:
        raise OptionError(
            "--inputs-of and --outputs-only exclude each other; leave both out to record both"
        )
    return ("input",) if inputs_only else ("output",) if outputs_only else ("input", "output")


def _level(name: str) -> Level:
    if name not in get_args(Level):
        raise OptionError(f"--level {name}: it is one of {', '.join(get_args(Level))}")
    return cast("Level", name)
