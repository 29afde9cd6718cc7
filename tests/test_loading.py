"""What a user writes for a subject, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstdiff.models.loading import load_subject
from firstdiff.models.subject import Subject
from firstdiff.traces.errors import OptionError, SubjectError


@pytest.fixture
def port(tmp_path: Path) -> Path:
    file = tmp_path / "my_port.py"
    file.write_text(
        "import firstdiff\n"
        "def build(): return firstdiff.Subject(model={'w': 2}, call=lambda model, x: model['w'] * x)\n"
        "def typed(dtype='float32'): return firstdiff.Subject(model=dtype)\n"
        "def raw(): return {'w': 1}\n"
        "def nothing(): pass\n"
        "def broken(): raise KeyError('lost')\n"
        "number = 3\n"
    )
    return file


def test_a_function_of_a_file_gives_its_subject_under_the_name_that_was_written(port: Path) -> None:
    subject = load_subject(f"{port}:build")
    assert subject.name == f"{port}:build"
    assert subject.call is not None
    assert subject.call(subject.model, x=21) == 42


def test_a_framework_that_is_named_overrides_the_subject(port: Path) -> None:
    assert load_subject(f"{port}:build", framework="haiku").framework == "haiku"


def test_dtype_reaches_a_factory_that_takes_it(port: Path) -> None:
    assert load_subject(f"{port}:typed", dtype="bfloat16").model == "bfloat16"


def test_dtype_is_refused_by_a_factory_without_it(port: Path) -> None:
    with pytest.raises(
        OptionError, match=r"takes no parameter `dtype`.*add `dtype` to its parameters"
    ):
        load_subject(f"{port}:build", dtype="bfloat16")


def test_a_module_beside_the_file_can_be_imported_by_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_port.py").write_text("VALUE = 7\n")
    file = tmp_path / "port_with_neighbour.py"
    file.write_text(
        "import firstdiff, beside_the_port\ndef build(): return firstdiff.Subject(model=beside_the_port.VALUE)"
    )
    assert load_subject(f"{file}:build").model == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raw", "returned a dict, not a firstdiff.Subject; end it with `return firstdiff.Subject"),
        ("nothing", "returned None, not a firstdiff.Subject"),
        ("broken", "raised KeyError: 'lost' while building the model"),
        ("number", "is a int, not a function; make it a function that returns"),
        ("bild", "has no bild; its functions are: broken, build, nothing, raw, typed"),
    ],
)
def test_a_wrong_factory(port: Path, name: str, message: str) -> None:
    with pytest.raises(SubjectError) as caught:
        load_subject(f"{port}:{name}")
    assert message in str(caught.value)


def test_the_users_own_exception_is_kept_as_the_cause(port: Path) -> None:
    with pytest.raises(SubjectError) as caught:
        load_subject(f"{port}:broken")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.py:build", "nowhere.py: no such file; write hf:DIR, hf:ID, file.py:name"),
        ("qwen", "qwen: not a subject; write hf:DIR"),
        (
            "no_such_package.port:build",
            "no_such_package.port: importing it raised ModuleNotFoundError",
        ),
    ],
)
def test_a_spec_that_names_nothing(spec: str, message: str) -> None:
    with pytest.raises(SubjectError) as caught:
        load_subject(spec)
    assert message in str(caught.value)


def test_a_file_that_fails_on_import(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text("1 / 0\n")
    with pytest.raises(
        SubjectError, match="importing it raised ZeroDivisionError: division by zero; run it alone"
    ):
        load_subject(f"{file}:build")


def test_a_subject_says_what_it_is() -> None:
    assert Subject(model=1).inputs is None


def test_a_file_without_a_name_lists_its_functions(port: Path) -> None:
    with pytest.raises(SubjectError) as caught:
        load_subject(str(port))
    assert f"write {port}:NAME; its functions are: broken, build" in str(caught.value)


def test_a_folder_is_pointed_to_hugging_face(tmp_path: Path) -> None:
    with pytest.raises(SubjectError) as caught:
        load_subject(str(tmp_path))
    assert f"write hf:{tmp_path}" in str(caught.value)
