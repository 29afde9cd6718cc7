"""Which way a layer's weights ought to lie: [out, in] or [in, out], by framework, class and leaf, else by what the
other matrices of the two sides do."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.weights.naming import family, is_embedding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.weights.match import Match, Side, Turn
    from firstdiff.traces.parameters import Parameter

Orientation = Literal["out_in", "in_out", "table", ""]
"""Rows are outputs; rows are inputs; a table that is looked up; unknown."""

_BY_CLASS: dict[str, Orientation] = {
    "Linear": "out_in",
    "Conv1D": "in_out",
    "NonDynamicallyQuantizableLinear": "out_in",
}
_KERNELS = {"linen": ("kernel",), "nnx": ("kernel",), "keras": ("kernel",), "haiku": ("w",)}
_CONV1D_NAMES = frozenset({"c_attn", "c_fc", "c_proj", "q_attn"})


def orientation(parameter: Parameter) -> Orientation:
    """What is known of one parameter by itself."""
    if is_embedding(parameter):
        return "table"
    if parameter.framework == "torch":
        return _BY_CLASS.get(parameter.class_name, "")
    if parameter.framework == "equinox":
        return "out_in" if parameter.leaf == "weight" else ""
    return "in_out" if parameter.leaf in _KERNELS.get(parameter.framework, ("kernel",)) else ""


class Conventions:
    """What ought to turn, learned from the matrices whose shapes leave no choice."""

    def __init__(self, reference: Side, port: Side, matches: Iterable[Match]) -> None:
        self.reference, self.port = reference, port
        self._votes: dict[tuple[str, str], Counter[Turn]] = defaultdict(Counter)
        self._families: dict[tuple[str, str], Counter[Turn]] = defaultdict(Counter)
        self._all: Counter[Turn] = Counter()
        for match in matches:
            if match.turn and not self._is_table(match):
                self._families[self._family(match)][match.turn] += 1
                if match.forced:
                    self._votes[self._leaves(match)][match.turn] += 1
                    self._all[match.turn] += 1

    def expected(self, match: Match) -> tuple[Turn, str]:
        """Whether the matrix should be `kept` or `turned`, and why; ("", "") when nothing says."""
        ours = orientation(self.reference.parameters[match.reference])
        theirs = orientation(self.port.parameters[match.port])
        if "table" in (ours, theirs):
            return self._of_table(ours, theirs)
        known = self._known(match, ours, theirs)
        if known[0]:
            return known
        votes = self._votes.get(self._leaves(match)) or self._all
        if votes:
            (turn, count), *_ = votes.most_common(1)
            return turn, f"as {count} other matrices of these two models"
        family = self._families[self._family(match)].most_common(2)
        if len(family) == 2 and family[0][1] > family[1][1]:
            return family[0][0], f"as in {family[0][1]} other layers"
        return "", ""

    def _of_table(self, ours: Orientation, theirs: Orientation) -> tuple[Turn, str]:
        pair = {ours, theirs}
        if pair == {"table"}:
            return "kept", "a table that is looked up is never transposed"
        if pair == {"table", "in_out"}:
            return "turned", "a head that is tied to its [vocabulary, hidden] table is [in, out]"
        return ("kept", "both are [out, in]") if pair == {"table", "out_in"} else ("", "")

    def _known(self, match: Match, ours: Orientation, theirs: Orientation) -> tuple[Turn, str]:
        if not theirs:
            return "", ""
        assumed = ours or self._assumed(match)
        if not assumed:
            return "", ""
        port, ref = self.port.parameters[match.port], self.reference.parameters[match.reference]
        reason = (
            f"{article(port.framework)} {port.leaf} is {_shape(theirs)}, "
            f"the reference's {ref.class_name or ref.leaf} {_shape(assumed)}"
        )
        return ("kept" if assumed == theirs else "turned"), reason.strip()

    def _assumed(self, match: Match) -> Orientation:
        """A checkpoint does not say; what its other matrices do, or the names, or PyTorch's habit."""
        votes = self._votes.get(self._leaves(match))
        theirs = orientation(self.port.parameters[match.port])
        if votes:
            turned = votes.most_common(1)[0][0] == "turned"
            return theirs if not turned else ("out_in" if theirs == "in_out" else "in_out")
        if self.reference.parameters[match.reference].leaf != "weight":
            return ""
        owner = self.reference.parameters[match.reference].owner.rpartition(".")[2]
        return "in_out" if owner in _CONV1D_NAMES else "out_in"

    def _leaves(self, match: Match) -> tuple[str, str]:
        return (
            self.reference.parameters[match.reference].leaf,
            self.port.parameters[match.port].leaf,
        )

    def _family(self, match: Match) -> tuple[str, str]:
        return (
            family(self.reference.parameters[match.reference].name),
            family(self.port.parameters[match.port].name),
        )

    def _is_table(self, match: Match) -> bool:
        return is_embedding(self.reference.parameters[match.reference]) or is_embedding(
            self.port.parameters[match.port]
        )


def expected_axes(reference: Parameter, port: Parameter) -> str:
    """`axes (2, 3, 1, 0)` or `equal` for the kernel of a convolution, where the frameworks say; else ``""``."""
    ndim = len(reference.shape)
    if ndim not in (3, 4, 5) or len(port.shape) != ndim or reference.leaf != "weight":
        return ""
    if port.framework == "equinox" or port.framework == "torch":
        return "equal"
    if port.leaf in _KERNELS.get(port.framework, ("kernel",)):
        return f"axes {(*range(2, ndim), 1, 0)}"
    return ""


def article(framework: str) -> str:
    """`a linen`, `an nnx`, or `a` for plain trees."""
    if not framework:
        return "a"
    return f"{'an' if framework[0] in 'aeiou' or framework == 'nnx' else 'a'} {framework}"


def _shape(orientation: Orientation) -> str:
    return {"out_in": "[out, in]", "in_out": "[in, out]"}.get(orientation, "")
