"""From what a user writes on the command line to a `Subject`.

`hf:DIR`, `hf:ID`, `file.py:name` or `package.module:name`; the name is a function that returns a `Subject`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from firstdiff.models.subject import Subject
from firstdiff.traces.errors import OptionError, SubjectError

FORMS = "hf:DIR, hf:ID, file.py:name or package.module:name"


def load_subject(
    spec: str,
    *,
    dtype: str | None = None,
    framework: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
) -> Subject:
    """Load what ``spec`` names.

    ``dtype`` loads the weights in that dtype: for `hf:` always, for a factory when it takes a parameter `dtype`.

    Raises:
        SubjectError: the file, the name or the model cannot be found, fails when it runs, or is no `Subject`.
        OptionError: ``dtype`` is asked of a factory that takes none.
    """
    if spec.startswith("hf:"):
        from firstdiff.models.hub import load_hf

        return load_hf(
            spec,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    factory = find_factory(spec)
    subject = call_factory(spec, factory, dtype)
    return replace(subject, name=subject.name or spec, framework=framework or subject.framework)


def find_factory(spec: str) -> Callable[..., Any]:
    """The function that ``spec`` (`file.py:name` or `package.module:name`) names."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise SubjectError(_no_subject(spec))
    module = import_file(Path(place)) if place.endswith(".py") else import_module(place)
    factory = getattr(module, name, None)
    if factory is None:
        raise SubjectError(f"{place} has no {name}; its functions are: {own_functions(module)}")
    if not callable(factory):
        raise SubjectError(
            f"{spec} is a {type(factory).__name__}, not a function; "
            f"make it a function that returns firstdiff.Subject"
        )
    return factory  # type: ignore[no-any-return]  # getattr of a module is Any; callable() was checked


def _no_subject(spec: str) -> str:
    """Why ``spec`` is none, with the remedy for what it looks like."""
    path = Path(spec)
    if path.suffix == ".py" and path.is_file():
        found = own_functions(import_file(path))
        return (
            f"{spec}: the function's name is missing; write {spec}:NAME; its functions are: {found}"
        )
    if path.is_dir():
        return f"{spec}: a folder; if it holds a Hugging Face model, write hf:{spec}"
    return f"{spec}: not a subject; write {FORMS}"


def own_functions(module: ModuleType) -> str:
    """Names of the public functions that ``module`` defines."""
    names = sorted(name for name, value in vars(module).items() if is_own_function(value, module))
    return ", ".join(names) or "none"


def is_own_function(value: object, module: ModuleType) -> bool:
    """Whether ``value`` is a public function that ``module`` itself defines."""
    own = getattr(value, "__module__", None) == module.__name__
    return inspect.isfunction(value) and own and not value.__name__.startswith("_")


def import_file(path: Path) -> ModuleType:
    """Run the user's file as a module; its folder is importable meanwhile and after, as with ``python file.py``."""
    if not path.is_file():
        raise SubjectError(f"{path}: no such file; write {FORMS}")
    name = f"firstdiff_subject_{path.stem}"
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SubjectError(
            f"{path}: importing it raised {describe(error)}; run it alone: python {path}"
        ) from error
    return module


def import_module(name: str) -> ModuleType:
    """Import ``name`` with the working directory on the path, as ``python -m`` does."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise SubjectError(
            f"{name}: importing it raised {describe(error)}; a file is written as file.py:name"
        ) from error


def call_factory(spec: str, factory: Callable[..., Any], dtype: str | None) -> Subject:
    """Call the user's factory and insist on a `Subject`."""
    options: dict[str, Any] = {}
    if dtype is not None:
        if not takes(factory, "dtype"):
            raise OptionError(
                f"--dtype {dtype}: {spec} takes no parameter `dtype`, so its weights keep the dtype it gives them; "
                f"add `dtype` to its parameters or leave the option out"
            )
        options["dtype"] = dtype
    try:
        subject = factory(**options)
    except SubjectError:
        raise
    except Exception as error:
        raise SubjectError(f"{spec} raised {describe(error)} while building the model") from error
    if not isinstance(subject, Subject):
        raise SubjectError(
            f"{spec} returned {article(subject)}, not a firstdiff.Subject; "
            f"end it with `return firstdiff.Subject(model=..., call=...)`"
        )
    return subject


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether ``function`` can be called with the keyword ``name``."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    if name in parameters:
        return parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def needed(function: Callable[..., Any]) -> tuple[str, ...]:
    """Keywords without which ``function`` cannot be called; its first parameter, the model, left out."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return ()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind not in variable)


def describe(error: BaseException) -> str:
    """`TypeError: the first line of its message`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def article(value: object) -> str:
    """`None`, or the type's name with its article."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
