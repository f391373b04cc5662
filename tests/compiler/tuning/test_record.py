"""Tuning records: what is written is read, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.lower.schedules import Option, Schedule
from ingot.compiler.tuning.record import Machine, Record, TuningError, parse_record, read_record
from ingot.runtime.errors import ArtifactError

HERE = Machine("A processor, family 1", "native", ("avx2", "fma"))
THERE = Machine("Another", "native", ("neon",))
OPTION = Option(Schedule("winograd4", 16, 12, 49, 2, "ahead"), 31.25, "compute", 29.5)

sizes = st.integers(1, 1 << 40)
schedules = st.builds(
    Schedule,
    st.sampled_from(["direct", "winograd2", "winograd4"]),
    sizes,
    sizes,
    sizes,
    sizes,
    st.sampled_from(["auto", "tiles", "panels", "ahead"]),
)
times = st.floats(0, 1e12)
options = st.builds(Option, schedules, times, st.sampled_from(["compute", "bandwidth"]), st.none() | times)
signatures = st.text(st.characters(codec="utf-8"), max_size=40)
kernels = st.dictionaries(signatures, st.lists(options, min_size=1, max_size=3).map(tuple), max_size=3)


@settings(max_examples=25)
@given(kernels)
def test_records_come_back(found: dict[str, tuple[Option, ...]]) -> None:
    record = Record({HERE: found, THERE: {"k": (OPTION,)}})
    again = parse_record(record.encode().encode())
    assert again == record and again.encode() == record.encode()


def test_joined_keeps_what_is_not_replaced() -> None:
    other = Option(Schedule("direct", 8, 4, 1, 1), 1.0, "bandwidth")
    record = Record({HERE: {"a": (OPTION,), "b": (OPTION,)}, THERE: {"a": (OPTION,)}}).joined(HERE, {"b": (other,)})
    assert record.kernels(HERE) == {"a": (OPTION,), "b": (other,)} and record.kernels(THERE) == {"a": (OPTION,)}


def damaged(**changes: Any) -> bytes:
    top = json.loads(Record({HERE: {"k": (OPTION,)}}).encode())
    row = top["machines"][0]["kernels"]["k"][0]
    for key, value in changes.items():
        if value is None and key in row:
            del row[key]
        else:
            row[key] = value
    return json.dumps(top).encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "fft"}, "algorithm"),
        ({"width": 0}, "width"),
        ({"width": 16.0}, "width"),
        ({"width": True}, "width"),
        ({"row_block": 1 << 60}, "row_block"),
        ({"order": ["tiles"]}, "order"),
        ({"limit": None}, "limit"),
        ({"predicted": "1"}, "predicted"),
        ({"predicted": -1}, "predicted"),
        ({"measured": True}, "measured"),
        ({"measured": 1e300}, "measured"),
        ({"more": 1}, "more"),
    ],
    ids=str,
)
def test_damaged_options(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        parse_record(damaged(**changes))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"format": 1}',
        b'{"format": 2, "machines": []}',
        b'{"format": 1, "machines": [], "more": 1}',
        b'{"format": 1, "machines": [1]}',
        b'{"format": 1, "machines": [{"processor": "p", "target": "t", "features": [], "kernels": {"k": []}}]}',
        b'{"format": 1, "machines": [{"processor": 1, "target": "t", "features": [], "kernels": {}}]}',
        b"[" * 100_000,
        b'{"format": 1, "machines": [NaN]}',
    ],
    ids=range(12),
)
def test_other_files(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        parse_record(text)
    path = tmp_path / "tuning.json"
    path.write_bytes(text)
    with pytest.raises(TuningError, match=r"tuning\.json"):
        read_record(path)


def test_machines_are_there_once() -> None:
    top = json.loads(Record({HERE: {}}).encode())
    top["machines"] *= 2
    with pytest.raises(ArtifactError, match="twice"):
        parse_record(json.dumps(top).encode())


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    with pytest.raises(TuningError, match="made by --tune"):
        read_record(path)
    Record({HERE: {"k": (OPTION,)}}).save(path)
    assert read_record(path) == Record({HERE: {"k": (OPTION,)}})
    with pytest.raises(TuningError):
        read_record(tmp_path)
