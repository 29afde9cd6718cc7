"""firstdiff: where does a JAX port of a PyTorch model first go wrong, and why?

The public names are loaded when they are first used: ``import firstdiff`` imports neither torch nor jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from firstdiff.version import __version__

if TYPE_CHECKING:
    from firstdiff.auditing import weights as weights
    from firstdiff.bisecting import bisect as bisect
    from firstdiff.checking import check as check
    from firstdiff.demonstration import demo as demo
    from firstdiff.diff.run import diff as diff
    from firstdiff.inspection import show as show
    from firstdiff.models.subject import Subject as Subject
    from firstdiff.prompting import prompt as prompt
    from firstdiff.recording import capture as capture
    from firstdiff.replaying import replay as replay
    from firstdiff.selfchecking import selfcheck as selfcheck
    from firstdiff.tracer.jax.tap import tap as tap
    from firstdiff.traces import open_trace as open_trace
    from firstdiff.traces import recover as recover
    from firstdiff.traces.errors import FirstdiffError as FirstdiffError
    from firstdiff.zooming import zoom as zoom

_PLACES = {
    "FirstdiffError": "firstdiff.traces.errors:FirstdiffError",
    "Subject": "firstdiff.models.subject:Subject",
    "bisect": "firstdiff.bisecting:bisect",
    "capture": "firstdiff.recording:capture",
    "check": "firstdiff.checking:check",
    "demo": "firstdiff.demonstration:demo",
    "diff": "firstdiff.diff.run:diff",
    "open_trace": "firstdiff.traces:open_trace",
    "prompt": "firstdiff.prompting:prompt",
    "recover": "firstdiff.traces:recover",
    "replay": "firstdiff.replaying:replay",
    "selfcheck": "firstdiff.selfchecking:selfcheck",
    "show": "firstdiff.inspection:show",
    "tap": "firstdiff.tracer.jax.tap:tap",
    "weights": "firstdiff.auditing:weights",
    "zoom": "firstdiff.zooming:zoom",
}

__all__ = ["__version__", *_PLACES]  # the keys are strings


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
