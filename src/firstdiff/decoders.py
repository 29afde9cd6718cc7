"""Subjects that decode: in PyTorch a call that runs the model once for every step, in JAX the inputs of one compiled
step after another. A framework is imported on use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.cropping import Cropping, unlike
from firstdiff.decoding import COLUMNS, Decoding, Steps, Tokens, last_logits
from firstdiff.models.loading import takes
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.inputs import HostTensor
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.events import Sink
    from firstdiff.traces.schema import Key


class TorchDecoding:
    """``call(model, **inputs)`` that decodes. Tokens chosen in the first run are those of every later one, so that
    runs in other precisions say the same words."""

    def __init__(self, subject: Subject, decoding: Decoding) -> None:
        self.decoding = decoding
        self.fed: list[np.ndarray] = []
        """int64[batch]: the tokens run, the prompt left out."""
        self.cached = has_cache(subject)
        self._subject = subject

    def __call__(self, model: Any, **inputs: Any) -> Any:
        """The output of the last step."""
        columns = {name: inputs[name] for name in COLUMNS if name in inputs}
        rest = {name: value for name, value in inputs.items() if name not in columns}
        prompt = Tokens.of({name: value.cpu().numpy() for name, value in columns.items()})
        steps = Steps(prompt, self.decoding, cached=self.cached)
        self._steps, cache, output = steps, None, None
        while True:
            given = {name: columns[name].new_tensor(v) for name, v in steps.given().items()}
            first = steps.step == 0 or not self.cached
            output, cache = self._run(model, cache, {**(rest if first else {}), **given})
            if not steps.take(last_logits(output).detach().float().cpu().numpy()):
                break
        self.fed = steps.fed
        self.decoding = replace(self.decoding, tokens=np.array(steps.fed, np.int64))
        return output

    def cropped(self, sink: Sink) -> Sink:
        """``sink`` for events of what a cache that grows would show."""
        return sink if self.cached else Cropping(sink, lambda: self._steps.length, capacity=None)

    def _run(self, model: Any, cache: Any, given: Mapping[str, Any]) -> tuple[Any, Any]:
        step = self._subject.step
        if step is not None:
            found: tuple[Any, Any] = step(model, cache, **given)
            return found
        if self.cached:
            output = model(**given, past_key_values=cache, use_cache=True)
            return output, output.past_key_values
        call = self._subject.call
        return (model(**given) if call is None else call(model, **given)), None


def decoding_call(subject: Subject, decoding: Decoding) -> tuple[Subject, TorchDecoding]:
    """The torch ``subject`` with a call that decodes, and that call."""
    _require_causal(subject)
    call = TorchDecoding(subject, decoding)
    return replace(subject, call=call), call


def has_cache(subject: Subject) -> bool:
    """Whether ``subject`` decodes with a cache: its own step, or what Hugging Face's models take."""
    forward = getattr(subject.model, "forward", None)
    if subject.step is not None or forward is None:
        return subject.step is not None
    try:
        known = set(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return False
    return {"past_key_values", "use_cache"} <= known


def _require_causal(subject: Subject) -> None:
    config = getattr(subject.model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise OptionError(
            f"--steps: {subject.name} has an encoder and a decoder; decoding is recorded for decoders alone"
        )


class JaxDecoding:
    """The inputs of one step after another, for `capture_jax`. With `Subject.step` a step gets its own tokens and the
    cache, without it all tokens so far."""

    def __init__(
        self, subject: Subject, inputs: Mapping[str, HostTensor], decoding: Decoding
    ) -> None:
        self.decoding, self._subject = decoding, subject
        self.cached = subject.step is not None
        prompt = Tokens.of({name: inputs[name].value for name in COLUMNS if name in inputs})
        prompt = self._taken(prompt.complete()) if self.cached else prompt
        self.capacity = self._capacity(prompt.length + decoding.steps)
        self._steps = Steps(prompt, decoding, cached=self.cached, capacity=self.capacity)
        self._rest = {name: given for name, given in inputs.items() if name not in COLUMNS}
        self.cache: Any = None
        """What the last step returned for the next one."""

    @property
    def fed(self) -> list[np.ndarray]:
        """int64[batch]: the tokens run, the prompt left out."""
        return self._steps.fed

    @property
    def call(self) -> Callable[..., Any] | None:
        """What each step runs."""
        return _stepping(self._subject.step) if self._subject.step else self._subject.call

    def cropped(self, sink: Sink) -> Sink:
        """``sink`` for events of what a cache that grows would show."""
        if self.cached and self.capacity is None:
            return sink
        return Cropping(sink, lambda: self._steps.length, capacity=self.capacity)

    def contents(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each array of the cache that the last step left: the places that are filled, a layer at a time."""
        from firstdiff.tracer.jax.outputs import leaves_of

        for name, value in leaves_of(self.cache).items():
            array = np.asarray(value)
            kept = tuple(
                slice(self._steps.length) if size == self.capacity else slice(None)
                for size in array.shape
            )
            layers = array[kept]
            if layers.ndim < 5:
                yield f"cache.{name}", np.ascontiguousarray(layers)
            for number in range(len(layers) if layers.ndim >= 5 else 0):
                yield f"cache.{number}.{name}", np.ascontiguousarray(layers[number])

    def uncropped(self, values: Mapping[Key, np.ndarray]) -> dict[Key, Any]:
        """``values`` for a planted run, of which `cropped` would have taken the first places.

        For a subject with a cache.
        """
        from firstdiff.tracer.jax.plant import Prefix

        if self.capacity is None:
            return dict(values)
        return {key: Prefix(value, self.capacity) for key, value in values.items()}

    def __call__(self, result: Any) -> dict[str, Any] | None:
        """Inputs of the next step after ``result``, of the first one after None; None when there is none."""
        from firstdiff.tracer.jax.carried import Carried

        cache = self._empty() if result is None else None
        if result is not None:
            output = result.output if self.cached else result
            cache = result.cache.value if self.cached else None
            self.cache = cache
            if not self._steps.take(np.asarray(last_logits(output)).astype(np.float32)):
                return None
        given = self._inputs(self._steps.step == 0 or not self.cached)
        return {**given, "cache": Carried(cache)} if self.cached else given

    def _inputs(self, first: bool) -> dict[str, Any]:
        from firstdiff.tracer.jax.inputs import jax_input

        rest = self._rest if first else {}
        others = {name: jax_input(given.value, given.dtype) for name, given in rest.items()}
        return {**others, **self._steps.given()}

    def _taken(self, prompt: Tokens) -> Tokens:
        """What the step function takes of ``prompt``."""
        step = self._subject.step
        assert step is not None, "called for subjects with a step"
        return Tokens(
            prompt.ids,
            prompt.mask if takes(step, "attention_mask") else None,
            prompt.positions if takes(step, "position_ids") else None,
        )

    def _capacity(self, length: int) -> int | None:
        """Length of a cache that the subject makes: longer than needed, and like no other axis."""
        if self._subject.cache is None:
            return None
        import jax

        sizes = {
            n for leaf in jax.tree_util.tree_leaves(self._subject.model) for n in np.shape(leaf)
        }
        return unlike(length + 1, sizes)

    def _empty(self) -> Any:
        make = self._subject.cache
        if make is None:
            return None
        ids = self._steps.given()["input_ids"]
        return make(self._subject.model, len(ids), self.capacity)


def _stepping(step: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    from firstdiff.tracer.jax.carried import Carried, Stepped

    def call(model: Any, cache: Any, **inputs: Any) -> Any:
        output, new = step(model, cache.value, **inputs)
        return Stepped(output, Carried(new))

    return call
