"""The journal by itself: what is whole is read, what is torn ends it, and a chain cannot trap the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.traces import Digest, Key, TraceError
from firstdiff.traces.container import Container
from firstdiff.traces.journal import HEAD, NEXT, RECORDS, Journal, find_journal, read_journal
from firstdiff.traces.mapping import Mapping
from firstdiff.traces.partial import PartialContents
from firstdiff.traces.rows import Kind, decode_row, encode_row
from firstdiff.traces.schema import Activation, Axis, Place

if TYPE_CHECKING:
    from pathlib import Path


def activation(number: int) -> Activation:
    digest = Digest(6, 1, 2, 3, 0.5, 1.5, -2.5, 3.5, 2**64 - 1, np.arange(64.0))
    return Activation(
        number,
        Key(f"layers.{number}", "input", "x", "attend", 1, 2),
        "bfloat16",
        (1, 2, 3),
        "Norm",
        (Axis("scan", 3, 1),),
        "a.py:1",
        digest,
        Place("/slabs/0", 64, 12),
    )


@pytest.fixture
def journal(tmp_path: Path) -> tuple[bytes, list[Activation]]:
    """A file with a journal of several blocks, and what it lists."""
    container = Container(tmp_path / "j.h5")
    written = [activation(number) for number in range(100)]
    journal = Journal(container)
    for number, one in enumerate(written):
        journal.append(encode_row(Kind.ACTIVATION, one, 1000 + number))
    container.close()
    return (tmp_path / "j.h5").read_bytes(), written


def read(data: bytes) -> list[Activation]:
    view = memoryview(data)
    start = find_journal(view)
    return [] if start is None else [record.activation for record in read_journal(view, start)]


def starts(data: bytes) -> list[int]:
    """Addresses of the blocks."""
    found = [find_journal(memoryview(data))]
    while found[-1]:
        found += NEXT.unpack_from(data, found[-1] + HEAD.size)
    return [start for start in found if start]


def test_rows_round_trip() -> None:
    one = activation(7)
    kind, found, address = decode_row(encode_row(Kind.ACTIVATION, one, 99))
    assert (kind, found, address) == (Kind.ACTIVATION, one, 99)
    assert found.digest is not None
    assert found.digest.sketch is None
    bare = Activation(0, Key("", "output"), "bool", ())
    assert decode_row(encode_row(Kind.INPUT, bare, 0)) == (Kind.INPUT, bare, 0)


def test_the_sketch_is_kept_where_there_are_no_bytes() -> None:
    one = activation(7)
    without = Activation(0, one.key, "float32", (6,), digest=one.digest)
    _, found, _ = decode_row(encode_row(Kind.ACTIVATION, without, 0))
    assert found.digest is not None
    assert np.array_equal(found.digest.sketch, np.arange(64.0))


def test_all_records_are_read(journal: tuple[bytes, list[Activation]]) -> None:
    data, written = journal
    assert len(starts(data)) >= 3
    assert read(data) == written


def test_a_damaged_record_ends_its_block(journal: tuple[bytes, list[Activation]]) -> None:
    data, written = journal
    last = starts(data)[-1]
    whole = len(read(data[: last + RECORDS]))
    damaged = bytearray(data)
    damaged[last + RECORDS + 20] ^= 1
    assert read(bytes(damaged)) == written[:whole]


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_cut_file_has_a_beginning(journal: tuple[bytes, list[Activation]], cut: int) -> None:
    data, written = journal
    found = read(data[: len(data) * cut // 60])
    assert found == written[: len(found)]


def test_a_chain_that_bites_its_tail_ends(journal: tuple[bytes, list[Activation]]) -> None:
    data, written = journal
    first, *_, last = starts(data)
    looped = bytearray(data)
    NEXT.pack_into(looped, last + HEAD.size, first)
    assert read(bytes(looped)) == written
    NEXT.pack_into(looped, last + HEAD.size, 2**63)
    assert read(bytes(looped)) == written


def test_a_copy_of_a_block_elsewhere_is_not_the_journal(
    journal: tuple[bytes, list[Activation]],
) -> None:
    data, _ = journal
    (start, *_) = starts(data)
    assert find_journal(memoryview(bytes(64) + data[start:])) is None


def test_a_capture_killed_before_its_header_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.h5.part"
    container = Container(path)
    Journal(container)
    container.close()
    with pytest.raises(TraceError) as caught:
        PartialContents(Mapping(path))
    assert str(caught.value) == (
        f"{path} holds nothing: its capture was stopped before the header was written. Delete it."
    )
