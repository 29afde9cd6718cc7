"""Traces of seeded faults: Hugging Face's and the ports', made when they are first asked for.

Apart from `verdict.py`, which asks: with a folder that is kept, another run only compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.recording import record
from firstdiff.traces import TraceWriter, open_trace

if TYPE_CHECKING:
    from pathlib import Path

    from firstdiff.models.faults import Fault

PRECISIONS = ("float32", "bfloat16", "float32/bfloat16", "bfloat16/float32")
"""Dtype of both sides, or of the reference and of the port. In the last, both hold the same bfloat16 weights."""


@dataclass(frozen=True)
class Setting:
    """What is the same for one right port and all its faults."""

    precision: str
    """One of `PRECISIONS`."""
    port: str
    mode: str
    seed: int
    digest: bool = False
    scan: bool = False

    @property
    def title(self) -> str:
        """In words."""
        marks = " scan" * self.scan, " digest only" * self.digest
        return f"{self.precision} {self.port}{marks[0]} {self.mode} seed {self.seed}{marks[1]}"

    @property
    def reference_dtype(self) -> str:
        """What the reference computes in."""
        return self.precision.partition("/")[0]

    @property
    def port_dtype(self) -> str:
        """What the port computes in."""
        return self.precision.rpartition("/")[2]

    @property
    def weights(self) -> str:
        """Dtype of the checkpoint."""
        return "bfloat16" if self.precision == "bfloat16/float32" else "float32"


class Traces:
    """The traces of a run, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, setting: Setting) -> Path:
        """The weights of a seed."""
        dtype = "" if setting.weights == "float32" else f"{setting.weights}-"
        path = self.folder / f"checkpoint-{dtype}{setting.seed}"
        if path.exists():
            return path
        return write_checkpoint(path, seed=setting.seed, dtype=setting.weights)

    def reference(self, setting: Setting) -> Path:
        """Hugging Face's trace."""
        path = self.folder / f"reference-{setting.precision.replace('/', '-')}-{setting.seed}.h5"
        if not path.exists():
            subject = f"hf:{self.checkpoint(setting)}"
            floor = ("bfloat16",) if "bfloat16" in setting.precision else ("float32",)
            inputs = discriminating_inputs(seed=setting.seed)
            record(
                subject,
                path,
                inputs=inputs,
                dtype=setting.reference_dtype,
                floor=floor,
                verify=False,
            )
        return path

    def port(self, setting: Setting, fault: Fault | None) -> Path:
        """The port's trace; ``fault`` None for the right one."""
        s, name = setting, fault.name if fault else "right"
        kind = f"{s.port}-scan" if s.scan else s.port
        dtype = s.port_dtype if s.weights == "float32" else f"{s.port_dtype}-of-{s.weights}"
        path = self.folder / f"{kind}-{s.mode}-{dtype}-{s.seed}-{name}.h5"
        if not path.exists():
            subject = qwen2.subject(
                s.port, self.checkpoint(s), fault=fault, dtype=s.port_dtype, scan=s.scan
            )
            inputs = discriminating_inputs(seed=s.seed)
            record(subject, path, inputs=inputs, mode=s.mode, verify=False)
        return path

    def digests(self, full: Path) -> Path:
        """The same trace without elements, as `capture --digest` writes it."""
        path = full.with_name(f"digest-{full.name}")
        if not path.exists():
            with open_trace(full) as trace, TraceWriter(path, trace.header, digest_only=True) as w:
                for name, given in trace.inputs.items():
                    w.write_input(name, trace.input(name), dtype=given.dtype)
                for activation in trace.activations:
                    w.write_digest(activation)
                for name, kept in trace.parameters.items():
                    w.write_parameter(name, trace.stored(kept), dtype=kept.dtype)
                for name in (
                    n for n in trace.tables if n.startswith(("floor/free/", "parameters/"))
                ):
                    rows = trace.table(name)
                    assert rows is not None, "a table that is listed"
                    w.write_table(name, rows)
                w.finish()
        return path

    def clean(self, path: Path) -> None:
        """Forget a port's trace."""
        for file in (path, path.with_name(f"digest-{path.name}")):
            file.unlink(missing_ok=True)


def compile_once(folder: Path) -> None:
    """Keep compiled programs: faults in the weights, and other seeds, share them."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
