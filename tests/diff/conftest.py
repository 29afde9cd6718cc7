"""A small transformer in numpy, traced as a reference and as a port, with faults to order. Weights discriminate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.traces import Header, Key, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
from typing import Any, ClassVar

BATCH, TOKENS, HEADS, WIDTH, VOCAB, LAYERS = 2, 12, 4, 8, 53, 3
HIDDEN = HEADS * WIDTH
ROUND = {"float64": np.float64, "float32": np.float32}


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to bfloat16, nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
        0xFFFF0000
    )
    return rounded.view(np.float32)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    return (to_bfloat16(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


@dataclass
class Tap:
    path: str
    site: str
    leaf: str
    value: np.ndarray
    same_as: int | None = None
    call: int = 0


@dataclass
class Tiny:
    """One forward pass; `taps` fill up in execution order."""

    dtype: str = "float32"
    fault: str = ""
    other_order: bool = False
    taps: list[Tap] = field(default_factory=list)
    mask: np.ndarray | None = None

    def cast(self, values: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return to_bfloat16(values)
        return np.asarray(values, ROUND[self.dtype])

    def tap(self, path: str, site: str, leaf: str, value: np.ndarray) -> np.ndarray:
        same = next(
            (n for n in reversed(range(len(self.taps))) if self.taps[n].value is value), None
        )
        self.taps.append(Tap(path, site, leaf, value, same))
        return value

    def matmul(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        if self.other_order:
            return self.cast(x[..., ::-1] @ self.cast(w)[::-1])
        return self.cast(x @ self.cast(w))

    def linear(
        self, path: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None
    ) -> np.ndarray:
        self.tap(path, "input", "input", x)
        y = self.matmul(x, w)
        if b is not None:
            y = self.cast(y + self.cast(b))
        return self.tap(path, "output", "", y)

    def norm(self, path: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        self.tap(path, "input", "hidden_states", x)
        if self.fault == "skip" and path.startswith("model.layers.1.input"):
            return self.tap(path, "output", "", x)
        wide = x.astype(np.float64 if self.dtype == "float64" else np.float32)
        eps = 1e-3 if self.fault == "eps" and path.startswith("model.layers.1.input") else 1e-6
        y = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps)
        return self.tap(path, "output", "", self.cast(self.cast(y) * self.cast(w)))

    def rope(
        self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, interleaved: bool
    ) -> np.ndarray:
        if interleaved:
            turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        else:
            turned = np.concatenate([-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]], -1)
        return self.cast(x * cos[:, :, None] + turned * sin[:, :, None])

    def attention(
        self, path: str, x: np.ndarray, cos: np.ndarray, sin: np.ndarray, w: dict[str, np.ndarray]
    ) -> np.ndarray:
        self.tap(path, "input", "hidden_states", x)
        self.tap(path, "input", "position_embeddings.0", cos)
        self.tap(path, "input", "position_embeddings.1", sin)
        first = path.endswith("layers.0.self_attn")
        order = np.arange(HIDDEN)
        if self.fault == "permuted q and k":
            order = np.arange(HIDDEN).reshape(HEADS, 2, WIDTH // 2).transpose(0, 2, 1).reshape(-1)
        q = self.linear(f"{path}.q_proj", x, w["q"][:, order], w["qb"][order])
        k = self.linear(f"{path}.k_proj", x, w["k"][:, order], w["kb"][order])
        v = self.linear(
            f"{path}.v_proj", x, w["v"], None if self.fault == "bias" and first else w["vb"]
        )
        back = np.argsort(order)
        q, k, v = (t.reshape(BATCH, TOKENS, HEADS, WIDTH) for t in (q[..., back], k[..., back], v))
        wrong = self.fault == "rope" or (self.fault == "late rope" and not first)
        q, k = (self.rope(t, cos, sin, interleaved=wrong) for t in (q, k))
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(WIDTH)
        hidden = np.triu(np.ones((TOKENS, TOKENS), bool), 1)[None, None]
        if self.mask is not None:
            hidden = hidden | (self.mask[:, None, None] == 0)
        scores = np.where(hidden, -1e9, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = self.cast(weights / weights.sum(-1, keepdims=True))
        mixed = self.cast(np.einsum("bhqk,bkhd->bqhd", weights, v)).reshape(BATCH, TOKENS, HIDDEN)
        if self.fault == "nan" and not first:
            mixed = mixed.copy()
            mixed[1, 3, 5] = np.nan
        return self.tap(path, "output", "", self.linear(f"{path}.o_proj", mixed, w["o"]))

    def mlp(self, path: str, x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        self.tap(path, "input", "x", x)
        gate = self.linear(f"{path}.gate_proj", x, w["gate"])
        self.tap(f"{path}.act_fn", "input", "input", gate)
        act = self.cast(gate / (1 + np.exp(-gate)))
        if self.fault == "gelu" and "layers.1." in path:
            act = self.cast(0.5 * gate * (1 + np.tanh(0.79788456 * (gate + 0.044715 * gate**3))))
        self.tap(f"{path}.act_fn", "output", "", act)
        up = self.linear(f"{path}.up_proj", x, w["up"])
        return self.tap(
            path, "output", "", self.linear(f"{path}.down_proj", self.cast(act * up), w["down"])
        )

    def run(self, ids: np.ndarray) -> list[Tap]:
        rng = np.random.default_rng(5)
        draw = lambda *shape, std=0.25: rng.normal(0, std, shape)
        table = draw(VOCAB, HIDDEN)
        positions = np.broadcast_to(np.arange(TOKENS), ids.shape)
        self.tap("", "input", "input_ids", ids)
        self.tap("model", "input", "input_ids", ids)
        self.tap("model.embed_tokens", "input", "input", ids)
        rows = ids - 1 if self.fault == "ids" else ids
        x = self.tap("model.embed_tokens", "output", "", self.cast(table[rows]))
        self.tap("model.rotary_emb", "input", "position_ids", positions)
        angles = positions[..., None] * 100.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
        angles = np.concatenate([angles, angles], -1)
        cos, sin = self.cast(np.cos(angles)), self.cast(np.sin(angles))
        self.tap("model.rotary_emb", "output", "0", cos)
        self.tap("model.rotary_emb", "output", "1", sin)
        for number in range(LAYERS):
            names = ["q", "k", "v", "o", "gate", "up", "down"]
            wide = {"gate": (HIDDEN, 64), "up": (HIDDEN, 64), "down": (64, HIDDEN)}
            w = {name: draw(*wide.get(name, (HIDDEN, HIDDEN)), std=0.2) for name in names}
            w |= {name: draw(HIDDEN, std=0.5) for name in ("qb", "kb", "vb")}
            norms = [1 + draw(HIDDEN, std=0.3) for _ in range(2)]
            layer = f"model.layers.{number}"
            self.tap(layer, "input", "hidden_states", x)
            y = self.norm(f"{layer}.input_layernorm", x, norms[0])
            x = self.cast(x + self.attention(f"{layer}.self_attn", y, cos, sin, w))
            y = self.norm(f"{layer}.post_attention_layernorm", x, norms[1])
            if self.fault == "residual" and number == 1:
                x = y
            x = self.tap(layer, "output", "", self.cast(x + self.mlp(f"{layer}.mlp", y, w)))
        x = self.tap(
            "model",
            "output",
            "last_hidden_state",
            self.norm("model.norm", x, 1 + draw(HIDDEN, std=0.3)),
        )
        self.tap("", "output", "logits", self.linear("lm_head", x, draw(HIDDEN, VOCAB)))
        return self.taps


def port_path(path: str) -> str:
    """How a linen port spells a path: no wrapper, `layers_0`, `/`."""
    return path.removeprefix("model.").replace("layers.", "layers_").replace(".", "/")


def plain_path(path: str) -> str:
    return path


@dataclass
class Maker:
    """Writes traces of `Tiny` into one folder."""

    folder: Path
    ids: np.ndarray
    made: int = 0
    port_path: ClassVar = staticmethod(port_path)

    def taps(self, fault: str = "", dtype: str = "float32", **options: Any) -> list[Tap]:
        """What one forward pass shows."""
        return Tiny(dtype, fault, **options).run(self.ids)

    def write(
        self,
        name: str,
        taps: Iterable[Tap],
        *,
        dtype: str = "float32",
        rename: Callable[[str], str] | None = None,
        floors: dict[str, np.ndarray] | None = None,
        inputs: dict[str, np.ndarray] | None = None,
        digest_only: bool = False,
        as_port: bool = False,
        front_end: str = "linen",
    ) -> Path:
        framework = "jax" if as_port else "torch"
        rename = rename or (port_path if as_port else plain_path)
        header = Header(
            framework, front_end="torch" if framework == "torch" else front_end, dtype=dtype,
            model={"type": "tiny"}, versions={framework: "1.0"}, mode="eager" if framework == "torch" else "jit",
            output_check={"checked": True, "bitwise": True, "max_abs": 0.0},
        )  # fmt: skip
        path = self.folder / name
        keys: list[Key] = []
        with TraceWriter(path, header, digest_only=digest_only, overwrite=True) as writer:
            for label, value in (inputs or {"input_ids": self.ids}).items():
                writer.write_input(label, np.ascontiguousarray(value), dtype=str(value.dtype))
            for tap in taps:
                key = Key(
                    rename(tap.path),
                    tap.site,
                    tap.leaf,
                    "forward" if framework == "torch" else "__call__",
                    tap.call,
                )
                value, logical = tap.value, str(tap.value.dtype)
                if dtype == "bfloat16" and value.dtype == np.float32:
                    value, logical = bfloat16_bits(value), "bfloat16"
                writer.write(key, np.ascontiguousarray(value), dtype=logical,
                             same_as=None if tap.same_as is None else keys[tap.same_as])  # fmt: skip
                keys.append(key)
            for floor, rows in (floors or {}).items():
                writer.write_table(f"floor/free/{floor}", rows)
            writer.finish()
        return path

    def floors(self, dtype: str, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The free floor of the reference in ``dtype``, as a capture records it."""
        golden, run = Tiny("float64", mask=mask).run(self.ids), Tiny(dtype, mask=mask).run(self.ids)
        rows = np.zeros(
            len(golden), [("order", "i8"), ("error", "f8"), ("scale", "f8"), ("count", "i8")]
        )
        for order, (truth, found) in enumerate(zip(golden, run, strict=True)):
            real = slice(None) if mask is None or truth.value.ndim < 2 else mask > 0
            a, b = truth.value[real].astype(float), found.value[real].astype(float)
            rows[order] = order, np.linalg.norm(b - a), np.linalg.norm(a), a.size
        return {dtype: rows}

    def reference(self, dtype: str = "float32", **options: object) -> Path:
        options.setdefault("floors", self.floors(dtype))
        return self.write("ref.h5", Tiny(dtype).run(self.ids), dtype=dtype, **options)

    def port(self, fault: str = "", dtype: str = "float32", **options: object) -> Path:
        self.made += 1
        taps = Tiny(dtype, fault, other_order=True).run(self.ids)
        return self.write(f"port{self.made}.h5", taps, dtype=dtype, as_port=True, **options)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    ids = np.random.default_rng(1).integers(0, VOCAB, (BATCH, TOKENS))
    return Maker(tmp_path, ids)
