"""Reading a traced program once, without running it: which taps it holds, and where their values
are at home.

A value that merely passes a boundary (an argument of an inner `jit`, a constant of a scan, an
operand of a `shard_map`) is at home outside, so it is taken out once and not once per iteration; a
module's output that is the next module's input is one variable, hence one slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.equations import equation_taps, is_transparent, place_inside
from firstdiff.tracer.jax.hoisted import with_hoisted
from firstdiff.tracer.jax.homes import Homes
from firstdiff.tracer.jax.layered import combined, is_layered
from firstdiff.tracer.jax.plan import (
    Address,
    Branches,
    Node,
    Plan,
    Scan,
    Shards,
    Slot,
    Tap,
    While,
)
from firstdiff.tracer.jax.scope import Frame, Scope, stacked
from firstdiff.tracer.jax.tap import tap_p

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jax.extend.core import ClosedJaxpr

    from firstdiff.tracer.jax.layered import Origin


def survey(
    program: ClosedJaxpr,
    *,
    parameters: int = 0,
    max_iterations: int | None = None,
    planted: frozenset[Address] = frozenset(),
    equations: Callable[[str], str] | None = None,
) -> Plan:
    """Plan of ``program``, whose first ``parameters`` arguments (and all constants) are parameters.

    ``max_iterations`` keeps that many first iterations of every while loop instead of its last one.
    A tap whose address is in ``planted`` returns another value than it receives. With ``equations``
    the result of every equation is tapped as well; it gives the path of the module for name scopes.
    """
    reader = _Reader(max_iterations, planted, equations, has_parameters=parameters > 0)
    root = Scope((), ())
    for number, var in enumerate(program.jaxpr.invars):
        root.origins[var] = "parameter" if number < parameters else "input"
    nodes = reader.read(program.jaxpr, root)
    notes = tuple(dict.fromkeys(reader.notes))
    return Plan(reader.homes.moved(nodes), notes, frozenset(reader.facts), reader.homes.carried())


def has_taps(jaxpr: Jaxpr) -> bool:
    """Whether ``jaxpr`` holds a tap at any depth."""
    return any(
        eqn.primitive is tap_p or any(has_taps(inner) for inner in compat.jaxprs_of(eqn))
        for eqn in jaxpr.eqns
    )


class _Reader:
    def __init__(
        self,
        max_iterations: int | None,
        planted: frozenset[Address],
        equations: Callable[[str], str] | None,
        *,
        has_parameters: bool,
    ) -> None:
        self.has_parameters = has_parameters
        self.max_iterations = max_iterations
        self.planted = planted
        self.equations = equations
        self.notes: list[str] = []
        self.facts: set[Slot] = set()
        self.homes = Homes()
        self.made: set[Any] = set()
        self.specs: dict[tuple[Address, Any], Any] = {}

    def read(self, jaxpr: Jaxpr, scope: Scope) -> tuple[Node, ...]:
        for var in jaxpr.constvars:
            scope.origins.setdefault(var, self.origin_of_constant(var))
        nodes: list[Node] = []
        for number, eqn in enumerate(jaxpr.eqns):
            if eqn.primitive is tap_p:
                tap = self.tap(eqn, scope, number)
                if not self.is_parameter(eqn.invars[0], tap, scope):
                    nodes.append(tap)
            elif self.is_entered(eqn):
                nodes.extend(self.inside(eqn, scope, number))
            elif self.equations is not None:
                nodes.extend(equation_taps(eqn, scope, number, self.equations))
            origin = combined([scope.origin(atom) for atom in eqn.invars])
            self.made.update(eqn.outvars if eqn.primitive is not tap_p else ())
            for var in eqn.outvars:
                scope.origins.setdefault(var, origin)
        return with_hoisted(nodes)

    def origin_of_constant(self, var: Any) -> Origin:
        """A constant of the program is a weight in a closure, or, in a model that has parameters of its own and where
        it is a mere vector, a table to compute from, such as the frequencies of a rotary embedding."""
        is_table = self.has_parameters and len(getattr(var.aval, "shape", ())) < 2
        return "constant" if is_table else "parameter"

    def is_parameter(self, atom: Any, tap: Tap, scope: Scope) -> bool:
        """Whether ``tap`` is not to be recorded, because it shows a parameter."""
        if scope.origin(atom) != "parameter":
            return False
        if (
            tap.key.level == "function"
        ):  # positions, rotary tables: made from constants, and of interest
            return tap.slot.var not in self.made
        return not tap.key.weights

    def is_entered(self, eqn: JaxprEqn) -> bool:
        """Whether something is tapped in a program that ``eqn`` holds."""
        if self.equations is not None and is_transparent(eqn):
            return True
        return any(has_taps(inner) for inner in compat.jaxprs_of(eqn))

    def inside(self, eqn: JaxprEqn, scope: Scope, number: int) -> Sequence[Node]:
        name = eqn.primitive.name
        if name in compat.JIT | compat.INLINED:
            return self.inlined(eqn, scope, number)
        rules: dict[str, Callable[[JaxprEqn, Scope, int], Node]] = {
            "scan": self.scan,
            "while": self.loop,
            "cond": self.cond,
            "shard_map": self.shards,
        }
        if name in rules:
            return [rules[name](eqn, scope, number)]
        place = compat.source_line(eqn) or "source unknown"
        self.notes.append(
            f"taps inside {name!r} ({place}) are not recorded: this transformation is not known"
        )
        return []

    def tap(self, eqn: JaxprEqn, scope: Scope, number: int) -> Tap:
        atom, out = eqn.invars[0], eqn.outvars[0]
        aval: Any = out.aval
        home = scope.home(out if isinstance(atom, Literal) else atom)
        address = (*scope.address, number)
        if address not in self.planted:
            scope.homes[out] = home
        batch = eqn.params["batch"]
        rest = (place for place in range(len(aval.shape)) if place not in batch)
        return Tap(
            key=eqn.params["key"],
            address=address,
            slot=home,
            scope=scope.address,
            batch=tuple(aval.shape[place] for place in batch),
            places=batch,
            source=eqn.params["key"].source or compat.source_line(eqn),
            stacked=stacked(scope.frames, out),
            spec=self.specs.get((scope.address, None if isinstance(atom, Literal) else atom)),
            shape=tuple(aval.shape[place] for place in (*batch, *rest)),
            dtype=aval.dtype,
        )

    def enter(
        self,
        eqn: JaxprEqn,
        jaxpr: Jaxpr,
        scope: Scope,
        where: tuple[int, int],
        atoms: Sequence[Any],
        passing: range,
    ) -> Scope:
        """The scope of an inner program whose arguments are ``atoms``.

        Those in ``passing`` are the very same values inside.
        """
        stack = f"{scope.stack}/{compat.name_stack(eqn)}"
        place = place_inside(eqn, scope) if self.equations is not None else ("", "")
        inner = Scope((*scope.address, *where), scope.frames, stack=stack, place=place)
        for index, (var, atom) in enumerate(zip(jaxpr.invars, atoms, strict=True)):
            inner.origins[var] = scope.origin(atom)
            if index in passing and not isinstance(atom, Literal):
                inner.homes[var] = scope.home(atom)
        return inner

    def inlined(self, eqn: JaxprEqn, scope: Scope, number: int) -> Sequence[Node]:
        closed = compat.inner_jaxpr(eqn)
        if closed is None:
            return []
        inner = self.enter(
            eqn, closed.jaxpr, scope, (number, 0), eqn.invars, range(len(closed.jaxpr.invars))
        )
        nodes = self.read(closed.jaxpr, inner)
        for out, atom in zip(eqn.outvars, closed.jaxpr.outvars, strict=True):
            if not isinstance(atom, Literal):
                scope.homes[out] = inner.home(atom)
        return nodes

    def scan(self, eqn: JaxprEqn, scope: Scope, number: int) -> Scan:
        params = eqn.params
        body, constants = params["jaxpr"].jaxpr, params["num_consts"]
        layered = is_layered(eqn, [scope.origin(atom) for atom in eqn.invars])
        inner = self.enter(eqn, body, scope, (number, 0), eqn.invars, range(constants))
        inner.frames = (*scope.frames, Frame())
        nodes = self.read(body, inner)
        self.homes.hand_on(eqn, scope, inner)
        address = (*scope.address, number)
        return Scan(address, params["length"], params["reverse"], layered, nodes)

    def loop(self, eqn: JaxprEqn, scope: Scope, number: int) -> While:
        params = eqn.params
        if has_taps(params["cond_jaxpr"].jaxpr):
            self.notes.append("taps in the condition of a while loop are not recorded")
        first, constants = params["cond_nconsts"], params["body_nconsts"]
        body = params["body_jaxpr"].jaxpr
        inner = self.enter(eqn, body, scope, (number, 0), eqn.invars[first:], range(constants))
        if self.max_iterations is not None:
            inner.frames = (*scope.frames, Frame())
        nodes = self.read(body, inner)
        widest = max(eqn.outvars, key=lambda var: len(compat.varying_axes_of(var.aval)))
        count = Slot(scope.address, number, stacked(scope.frames, widest))
        self.facts.add(count)
        return While((*scope.address, number), count, self.max_iterations, nodes)

    def cond(self, eqn: JaxprEqn, scope: Scope, number: int) -> Branches:
        index, operands = eqn.invars[0], eqn.invars[1:]
        everything = range(len(operands))
        children = []
        for which, branch in enumerate(eqn.params["branches"]):
            inner = self.enter(eqn, branch.jaxpr, scope, (number, which), operands, everything)
            children.append(self.read(branch.jaxpr, inner))
        address = (*scope.address, number)
        if isinstance(index, Literal):
            return Branches(address, int(index.val), tuple(children))
        home = scope.home(index)
        self.facts.add(home)
        return Branches(address, home, tuple(children))

    def shards(self, eqn: JaxprEqn, scope: Scope, number: int) -> Shards:
        params = eqn.params
        body = params["jaxpr"]
        inner = self.enter(eqn, body, scope, (number, 0), eqn.invars, range(len(body.invars)))
        axes = tuple((name, params["mesh"].shape[name]) for name in compat.manual_axes(eqn))
        inner.frames = (*scope.frames, Frame(axes, params["check_vma"]))
        for var, spec in zip(body.invars, params["in_specs"], strict=True):
            self.specs[inner.address, var] = spec
        nodes = self.read(body, inner)
        for atom, out, spec in zip(body.outvars, eqn.outvars, params["out_specs"], strict=True):
            if isinstance(atom, Literal):
                continue
            self.homes.move(inner.home(atom), inner.address, scope.home(out), spec)
        return Shards((*scope.address, number), nodes)
