"""Hugging Face models as subjects: `hf:DIR` or `hf:ID`.

Apart from `loading.py`, which needs no transformers. Whatever transformers says in warnings, progress
bars and tracebacks becomes silence or one sentence.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstdiff.models.default_inputs import default_inputs
from firstdiff.models.subject import Subject
from firstdiff.traces.errors import OptionError, SubjectError

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Dtypes that weights can be loaded in."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)


def load_hf(
    spec: str,
    *,
    dtype: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> Subject:
    """Load the model that ``spec`` (`hf:DIR` or `hf:ID`) names, in evaluation mode, with default inputs.

    The class is the architecture that the checkpoint names. ``dtype`` None keeps the checkpoint's own.
    The call leaves the key-value cache out (`use_cache=False`) where the model would make one.

    Raises:
        SubjectError: nothing there, no weights, a class unknown to transformers, code of its own that was not
            allowed, parameters that the checkpoint lacks, or no network.
        OptionError: ``dtype`` is none that weights can have.
    """
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    transformers = _transformers(spec)
    location = _location(spec)
    with _quiet(transformers), _explained(spec):
        config = transformers.AutoConfig.from_pretrained(
            location, trust_remote_code=trust_remote_code
        )
        architecture = _architecture(spec, transformers, config, trust_remote_code)
        _require_weights(spec, location)
        own = _dtype_of(config)
        model, report = architecture.from_pretrained(
            location,
            config=config,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **{_dtype_argument(transformers): getattr(torch, dtype) if dtype else "auto"},
        )
        model.eval().to(device)
    _require_complete(spec, report)
    found = default_inputs(model)
    return Subject(
        model=model,
        call=_call(model),
        inputs=found and {name: value.to(device) for name, value in found.items()},
        framework="torch",
        name=spec,
        config=_config(model, own),
    )


def _dtype_of(config: Any) -> str:
    """The dtype that a checkpoint states; empty when it does not."""
    found = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return str(found).removeprefix("torch.") if found is not None else ""


def _config(model: Any, own: str) -> dict[str, Any]:
    """The model's configuration, and ``checkpoint_dtype`` where it was loaded in another one than ``own``."""
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    loaded = _dtype_of(model.config)
    return config | ({"checkpoint_dtype": own} if own and loaded and own != loaded else {})


def encode(
    spec: str, prompts: Sequence[str], *, trust_remote_code: bool = False
) -> dict[str, np.ndarray]:
    """Token ids of ``prompts`` by the tokenizer beside the model: int64 (prompts, tokens), with a mask.

    Rows are padded on the left for a causal model, on the tokenizer's own side for others. Raises
    SubjectError when there is no tokenizer.
    """
    transformers = _transformers(spec)
    location = _location(spec)
    folder = Path(location)
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZERS):
        raise SubjectError(
            f"{spec}: no tokenizer in this folder (tokenizer.json, tokenizer.model, vocab.txt, ...); "
            "copy it there, or give --input-ids"
        )
    with _quiet(transformers), _explained(spec):
        config = transformers.AutoConfig.from_pretrained(
            location, trust_remote_code=trust_remote_code
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            location, trust_remote_code=trust_remote_code
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        names = " ".join(getattr(config, "architectures", None) or ())
        if "CausalLM" in names or "LMHead" in names:
            tokenizer.padding_side = "left"
        encoded = tokenizer(list(prompts), padding=len(prompts) > 1, return_tensors="np")
    taken = {"input_ids", "attention_mask"}
    if getattr(config, "type_vocab_size", 0):
        taken.add("token_type_ids")  # generic tokenizers make them for models that have none
    return {k: np.asarray(value, np.int64) for k, value in encoded.items() if k in taken}


def _transformers(spec: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SubjectError(f"{spec}: needs transformers; pip install 'firstdiff[hf]'") from error
    return transformers


def _location(spec: str) -> str:
    """The folder or the hub's id behind ``spec``; a folder must exist and hold a configuration."""
    location = spec.removeprefix("hf:")
    folder = Path(location).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SubjectError(
                f"{spec}: no config.json in this folder; give the folder that save_pretrained wrote"
            )
        return str(folder)
    is_id = location.count("/") <= 1 and not location.startswith((".", "~", "/"))
    if not location or not is_id:
        raise SubjectError(f"{spec}: no such folder; write hf:DIR, or hf:ID as on huggingface.co")
    return location


def _require_weights(spec: str, location: str) -> None:
    folder = Path(location)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise SubjectError(
            f"{spec}: no weights in this folder (*.safetensors or *.bin); "
            "a download may be incomplete, fetch it again"
        )


def _architecture(spec: str, transformers: Any, config: Any, trust_remote_code: bool) -> Any:
    """The class to load: the checkpoint's architecture, its own code when allowed, `AutoModel` when none is named."""
    own_code = getattr(config, "auto_map", None) or {}
    names = getattr(config, "architectures", None) or []
    for name in names:
        known = getattr(transformers, name, None)
        if known is not None and hasattr(known, "from_pretrained"):
            return known
    if own_code:
        if not trust_remote_code:
            raise SubjectError(
                f"{spec}: {', '.join(names) or 'the model'} is code that comes with the checkpoint; "
                "read it, then allow it with --trust-remote-code"
            )
        for auto in own_code:
            if auto.startswith("AutoModel") and hasattr(transformers, auto):
                return getattr(transformers, auto)
    if names:
        raise SubjectError(
            f"{spec}: transformers {transformers.__version__} has no {', '.join(names)}; "
            "install the version that the checkpoint was saved with (transformers_version in config.json)"
        )
    return transformers.AutoModel


def _require_complete(spec: str, report: dict[str, Any]) -> None:
    """Refuse a model of which parts were made up: a port could not have the same random numbers."""
    missing = sorted(str(key) for key in report.get("missing_keys", ()))
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise SubjectError(
            f"{spec}: the checkpoint lacks {len(missing)} parameters of the model ({shown}), "
            "which would be random; correct architectures in its config.json or complete the checkpoint"
        )


def _call(model: Any) -> Callable[..., Any]:
    """Call ``model`` by keyword, without a key-value cache unless one is asked for."""
    if "use_cache" not in inspect.signature(model.forward).parameters:
        return lambda model, **inputs: model(**inputs)
    return lambda model, **inputs: model(**{"use_cache": False, **inputs})


def _dtype_argument(transformers: Any) -> str:
    """`dtype`, which transformers called `torch_dtype` before 4.56."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


@contextmanager
def _explained(spec: str) -> Iterator[None]:
    """Turn what transformers raises into one sentence."""
    try:
        yield
    except SubjectError:
        raise
    except (
        Exception
    ) as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError, ...
        raise SubjectError(f"{spec}: {_reason(str(error), error)}") from error


def _reason(text: str, error: Exception) -> str:
    if "trust_remote_code" in text:
        return (
            "the model is code that comes with the checkpoint; "
            "read it, then allow it with --trust-remote-code"
        )
    if "couldn't connect" in text or "offline" in text.lower() or "Name or service" in text:
        return (
            "huggingface.co cannot be reached and the model is not in the cache; "
            "download it elsewhere and give its folder, hf:DIR"
        )
    if "is not a valid model identifier" in text or "Repository Not Found" in text:
        return "no folder and no model of that name on huggingface.co; check the spelling"
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return (
            "this version of transformers does not know the model type in config.json; "
            "upgrade transformers"
        )
    lines = [line.strip() for line in text.strip().splitlines()] or ["no reason given"]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"transformers raised {type(error).__name__}: {first}"


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No warnings, log lines or progress bars of transformers inside."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
