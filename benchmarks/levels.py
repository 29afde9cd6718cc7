"""Zoom over the seeded faults that lie between modules: is the right function named, on both sides?

    python benchmarks/levels.py --frameworks linen nnx --dtype float32

The module is the fault's (it is what `check` finds, see benchmarks/replay.py); zoom is given the reference, the faulty
port and that module. With `--reference check` it is `check` that finds the module and looks into it by itself, from a
trace of functions, without a model; what it does not see, since rounding hides it, is counted apart. Right is: the
reference's function and the port's function are those of the catalogue (`Fault.function`, `Fault.port_function`).
Then the right port, each module with functions of its own: no alarm.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from firstdiff.checking import check
from firstdiff.diff.inside.answer import Zoom
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.faults import FAULTS, Fault
from firstdiff.recording import as_subject, record
from firstdiff.zooming import zoom

if TYPE_CHECKING:
    from firstdiff.models.subject import Subject

Mode = Literal["eager", "jit"]

MODULES = ("", "layers.0", "layers.0.self_attn", "layers.1.mlp", "layers.1.input_layernorm")


@dataclass
class Tally:
    """How often each side's function was named."""

    total: int = 0
    both: int = 0
    reference: int = 0
    port: int = 0
    hidden: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, fault: Fault, result: Zoom | None) -> None:
        if result is None:
            self.hidden.append(fault.name)
            return
        found = {spot.side: spot.function for spot in result.spots}
        ours = found.get("reference", "") == fault.function
        theirs = found.get("port", "") == fault.port_function
        self.total += 1
        self.reference, self.port = self.reference + ours, self.port + theirs
        self.both += ours and theirs
        if not (ours and theirs):
            seen = ", ".join(f"{side} {name}" for side, name in found.items()) or "nothing"
            true = f"{fault.function}, {fault.port_function}"
            self.missed.append(f"{fault.name} (found {seen}; true {true})")

    def lines(self) -> list[str]:
        share = [100 * n / max(self.total, 1) for n in (self.both, self.reference, self.port)]
        head = "both sides {:.1f} %, reference {:.1f} %, port {:.1f} % of {}".format(
            *share, self.total
        )
        hidden = [f"  not seen by check: {', '.join(self.hidden)}"] if self.hidden else []
        return [head, *(f"  missed: {line}" for line in self.missed), *hidden]


class Bench:
    """A tiny checkpoint with its reference: the model, or a trace that looks inside."""

    def __init__(
        self, folder: Path, dtype: str, level: str, seed: int = 0, mode: Mode = "eager"
    ) -> None:
        self.checkpoint = write_checkpoint(folder / f"checkpoint-{dtype}", seed=seed)
        self.dtype, self.mode = dtype, mode
        self.model: Subject | Path = as_subject(f"hf:{self.checkpoint}", dtype)
        if level != "subject":
            path, depth = (
                folder / f"reference-{level}.h5",
                "function" if level == "check" else level,
            )
            floors = () if dtype == "float32" and level != "check" else None
            record(self.model, path, inputs=discriminating_inputs(), level=depth, floor=floors)
            self.model = path
        self.by_check = level == "check"

    def fault(self, framework: str, fault: Fault) -> Zoom | None:
        """The zoom into a faulty port; None where `check` sees no divergence."""
        if not self.by_check:
            return self.run(framework, fault, fault.module)
        assert isinstance(self.model, Path), "check takes a trace"
        port = qwen2.subject(framework, self.checkpoint, fault=fault, dtype=self.dtype)
        result = check(self.model, port, mode=self.mode, replay=False, verify=False)
        return None if result.finding is None else result.zoom or Zoom("", "", "")

    def run(self, framework: str, fault: Fault | None, module: str) -> Zoom:
        port = qwen2.subject(framework, self.checkpoint, fault=fault, dtype=self.dtype)
        inputs = None if isinstance(self.model, Path) else discriminating_inputs()
        return zoom(self.model, port, module or ".", inputs=inputs, mode=self.mode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frameworks", nargs="*", default=["linen"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--reference", default="subject", choices=("subject", "function", "op", "check")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", default="eager", choices=("eager", "jit"))
    parser.add_argument("--faults", nargs="*")
    options = parser.parse_args()
    glue = [fault for fault in FAULTS.values() if fault.between_modules]
    chosen = [FAULTS[name] for name in options.faults] if options.faults is not None else glue
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.dtype, options.reference, options.seed, options.mode)
        for framework in options.frameworks:
            began, tally = time.process_time(), Tally()
            for fault in chosen:
                tally.add(fault, bench.fault(framework, fault))
            seconds = (time.process_time() - began) / max(len(chosen), 1)
            print(
                f"{framework} {options.dtype}, reference as {options.reference}:",
                *tally.lines(),
                sep="\n",
            )
            alarms = [m or "the model" for m in MODULES if bench.run(framework, None, m).spots]
            print(f"right port: alarms in {', '.join(alarms) or 'none'} of {len(MODULES)} modules")
            print(f"{seconds:.1f} s CPU a zoom, both sides recorded", flush=True)


if __name__ == "__main__":
    main()
