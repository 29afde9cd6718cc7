"""docs/trace-format.md is true: its recipe runs, its tables name what is in the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from firstdiff.traces import open_trace
from firstdiff.traces.index import COLUMNS
from firstdiff.traces.journal import HEAD, MAGIC, NEXT, RECORDS
from firstdiff.traces.rows import NUMBERS, TEXTS, Kind

GOLDEN = Path(__file__).parent / "golden" / "v1.h5"
PAGE = Path(__file__).parents[2] / "docs" / "trace-format.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_recipe_reads_every_activation(page: str) -> None:
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"path": GOLDEN}
    exec(recipe, names)
    with open_trace(GOLDEN) as trace:
        assert names["header"]["front_end"] == trace.header.front_end
        assert np.array_equal(names["inputs"]["input_ids"], trace.input("input_ids"))
        assert len(names["activations"]) == len(trace.activations)
        for activation in trace.activations:
            key = activation.key
            found = names["activations"][key.path, key.site, key.leaf, key.call]
            bits = activation.dtype.startswith(("float8", "int4"))
            expected = trace.stored(activation) if bits else trace.values(activation)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert np.array_equal(found, expected, equal_nan=found.dtype.kind in "fc")


def test_the_index_is_a_data_frame(page: str) -> None:
    assert 'pandas.DataFrame(file["index"][()])' in page
    with h5py.File(GOLDEN) as file:
        frame = pd.DataFrame(file["index"][()])
    frame["path"] = frame["path"].str.decode("utf-8")
    assert frame.loc[frame["path"] == "norm", "nan"].tolist() == [1]


def test_columns_and_numbers_are_those_of_the_file(page: str) -> None:
    table = page.split("### The columns of the index")[1].split("###")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(first))) == set(COLUMNS)
    for kind in Kind:
        assert f"{kind.value} {kind.name.lower()}" in page
    assert "path, leaf, method, class, dtype, shape, dataset, axes, source." in page
    assert ", ".join(TEXTS) + "." in page.replace("\n", " ")
    assert (HEAD.size, HEAD.size + NEXT.size, RECORDS, len(MAGIC), NUMBERS.itemsize) == (
        48,
        56,
        64,
        24,
        136,
    )
    assert bytes.fromhex("93") + b"firstdiff journal" + bytes.fromhex("0D0A1A0A0000") == MAGIC


def test_the_places_are_those_of_the_file(page: str) -> None:
    with h5py.File(GOLDEN) as file:
        for name in file:
            assert f"`/{name}" in page
        assert {"format", "format_version", "complete"} == set(file.attrs)
        assert file["activations/large/output"][2, 1] == 257 / 3
