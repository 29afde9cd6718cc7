"""The arrows between the rooms, and who may import a framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import firstdiff

HOUSE = Path(firstdiff.__file__).parent
ROOMS = {
    "traces": set(),
    "tracer": {"traces"},
    "diff": {"traces"},
    "models": {"tracer", "traces"},
}
TOP = {place.stem for place in HOUSE.iterdir() if not place.stem.startswith("_")}
FRAMEWORKS = {"torch", "jax", "jaxlib", "flax", "haiku", "equinox", "keras", "transformers"}
GROUND = {"numpy", "h5py"}


def imports(source: str) -> set[str]:
    """Every module that ``source`` imports, at any depth, outside `if TYPE_CHECKING` too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(source: str) -> set[str]:
    """Rooms of the house that ``source`` imports."""
    parts = (name.split(".") for name in imports(source) if name.startswith("firstdiff."))
    return {part[1] for part in parts if part[1] in TOP}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    for file in (HOUSE / room).rglob("*.py"):
        upward = rooms_imported(file.read_text()) - ROOMS[room] - {room}
        assert not upward - {"version"}, f"{file.relative_to(HOUSE)} imports {sorted(upward)}"


def test_the_arrow_check_sees_a_forbidden_import() -> None:
    assert rooms_imported("def f():\n    from firstdiff.diff.run import diff") == {"diff"}


def test_the_ground_floor_needs_numpy_and_h5py_alone() -> None:
    allowed = GROUND | {"firstdiff"} | set(sys.stdlib_module_names)
    for file in (HOUSE / "traces").rglob("*.py"):
        foreign = {name.split(".")[0] for name in imports(file.read_text())} - allowed
        assert not foreign, f"{file.relative_to(HOUSE)} imports {sorted(foreign)}"


@pytest.mark.parametrize("room", ["traces", "diff", "cli"])
def test_rooms_that_never_import_a_framework(room: str) -> None:
    for file in (HOUSE / room).rglob("*.py"):
        found = {name.split(".")[0] for name in imports(file.read_text())} & FRAMEWORKS
        assert not found, f"{file.relative_to(HOUSE)} imports {sorted(found)}"


def loaded_frameworks(program: str) -> list[str]:
    """Frameworks in ``sys.modules`` after a fresh interpreter ran ``program``."""
    check = f"{program}\nimport sys; print(*sorted({FRAMEWORKS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "program",
    [
        "import firstdiff",
        "import firstdiff.diff; import firstdiff.traces",
        "import firstdiff; firstdiff.diff; firstdiff.show; firstdiff.Subject; firstdiff.open_trace",
        "import firstdiff.cli",
        "import firstdiff.models",
    ],
)
def test_imports_that_load_neither_torch_nor_jax(program: str) -> None:
    assert loaded_frameworks(program) == []


def test_the_framework_check_can_fail() -> None:
    assert "jax" in loaded_frameworks("import jax")


def test_links_at_the_top_level_lead_into_the_house() -> None:
    for room in ROOMS:
        link = HOUSE.parent.parent / room
        if not link.exists():
            pytest.skip("an installed package has no checkout around it")
        assert link.resolve() == HOUSE / room
