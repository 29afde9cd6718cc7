"""`replay`: one side's values forced into the other side's computation, so that all faults show at once.

Here it is told which side is run. The runs are made in `port_replay.py` and `reference_replay.py`; what is forced where
is `diff/planting.py`'s business, what comes of it `diff/replayed.py`'s; the forcing itself is the tracers'.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.port_replay import replay_port
from firstdiff.recording import as_subject
from firstdiff.reference_replay import replay_reference
from firstdiff.replay_result import Judged
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff.replayed import Replay


def _quiet(_message: str) -> None:
    return


def replay(
    first: Any,
    second: Any,
    *,
    only: str | None = None,
    start: str | None = None,
    map: str | Path | None = None,
    dtype: str | None = None,
    mode: str = "jit",
    exact: bool = False,
    framework: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    progress: Callable[[str], None] = _quiet,
) -> Replay:
    """Find every fault of a port at once.

    ``replay("ref.h5", subject)`` runs the port ``subject`` with the reference's values planted at every
    aligned tap: one jitted pass, no PyTorch. ``replay("hf:DIR", "port.h5")`` forces the port's recorded values
    into the PyTorch reference, in float64, in the port's dtype and perturbed: no JAX, no second run of the
    port. Either way the values that the model computed itself are judged on local noise floors.

    Args:
        first, second: the reference, then the port; one of them a trace, the other what `capture` takes.
        only: judge modules whose path (without the outer wrapper) matches this glob.
        start: judge from this module on.
        map: module pairs of your own, as for `diff`.
        dtype, framework, attn_implementation, trust_remote_code: how the model is loaded, as for `capture`.
        mode, exact: as for `capture` of a JAX port.
        progress: is told what is going on.

    Raises:
        OptionError: neither or both are traces, a filter matches nothing, the reference's trace has no local
            floors for the port's dtype, or kept no elements.
        TraceError, SubjectError, InputMismatch: as for `check`.
    """
    traces = [_is_trace(side) for side in (first, second)]
    if traces[0] == traces[1]:
        raise OptionError(
            f"replay {first} {second}: {'both are traces' if traces[0] else 'neither is a trace'}; give the "
            "reference's trace and the port (REF.h5 SUBJECT), or the reference and the port's trace (SUBJECT PORT.h5)"
        )
    judged = Judged(only, start)
    loading = {
        "framework": framework,
        "attn_implementation": attn_implementation,
        "trust_remote_code": trust_remote_code,
    }
    subject = second if traces[0] else first
    if isinstance(subject, str | Path):
        progress("loading the model")
    given = as_subject(subject, dtype, **loading)  # type: ignore[arg-type]  # keywords of several types
    if traces[0]:
        return replay_port(
            first, given, judged=judged, map=map, mode=mode, exact=exact, progress=progress
        )
    return replay_reference(given, second, judged=judged, map=map, progress=progress)


def _is_trace(side: Any) -> bool:
    return isinstance(side, str | Path) and Path(side).suffix in (".h5", ".hdf5", ".part")
