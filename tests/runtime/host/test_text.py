"""Host functions on text, against Python's own and against ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.runtime.errors import HostError
from ingot.runtime.host import text
from ingot.runtime.host.functions import FUNCTIONS, call, check_attributes

ANY = np.array(["", "a", "ä b", "  x  y ", "\t", "a,b,,c", ",", "ß", "\0", "𝔘nicode"], object)


def test_concatenation_broadcasts() -> None:
    column, row = np.array([["a"], [""]], object), np.array(["é", "b", ""], object)
    assert text.concat(column, row, (2, 3)).tolist() == [["aé", "ab", "a"], ["é", "b", ""]]
    assert text.concat(row[:0], row[:1], (0,)).shape == (0,)
    assert text.concat(np.array("x", object), np.array("y", object), ()).item() == "xy"


@pytest.mark.parametrize("most", [-1, 0, 1, 5])
@pytest.mark.parametrize("delimiter", ["", ",", ",,", "x"])
def test_parts_of_strings(delimiter: str, most: int) -> None:
    counts = text.parts(ANY, delimiter, most)
    wanted = [x.split(delimiter, most) if delimiter else x.strip().split(None, most) for x in ANY]
    assert counts.tolist() == [len(w) for w in wanted] and counts.dtype == np.int64
    width = max(map(len, wanted))
    split = text.split(ANY, delimiter, most, (len(ANY), width))
    assert split.tolist() == [w + [""] * (width - len(w)) for w in wanted]
    with pytest.raises(HostError, match="room for 0"):
        text.split(ANY, delimiter, most, (len(ANY), 0))


def test_stop_words_and_letter_case() -> None:
    x = np.array(["Monday", "monday", "Tuesday", "straße"], object)
    assert text.kept(x, ("monday",), True).item() == 3
    assert text.kept(x, ("MONDAY",), False).item() == 2
    assert text.normalise(x, ("monday",), True, "NONE", (3,)).tolist() == ["Monday", "Tuesday", "straße"]
    assert text.normalise(x, ("MONDAY",), False, "UPPER", (2,)).tolist() == ["TUESDAY", "STRASSE"]
    assert text.normalise(x, (), False, "LOWER", (4,)).tolist() == ["monday", "monday", "tuesday", "straße"]
    everything = tuple(x.tolist())
    assert text.kept(x, everything, True).item() == 1
    assert text.normalise(x, everything, True, "NONE", (1,)).tolist() == [""]
    with pytest.raises(HostError, match=r"4 strings where the shape .3. is expected"):
        text.normalise(x, (), True, "NONE", (3,))


def test_ranks_are_in_the_order_of_utf_8() -> None:
    shuffled = np.random.default_rng(1).permutation(np.concatenate((ANY, ANY)))
    ranks = text.rank(shuffled)
    ordered = sorted(set(ANY.tolist()), key=str.encode)
    assert [ordered[i] for i in ranks] == shuffled.tolist()
    assert text.rank(ANY[:0]).shape == (0,)


def test_calls_are_checked() -> None:
    one = np.array(["a"], object)
    objects = np.dtype(object)
    assert call("string_concat", [one, one], {}, [(objects, (1,))])[0].tolist() == ["aa"]
    with pytest.raises(HostError, match="is expected"):
        call("string_rank", [one], {}, [(np.dtype(np.int64), (2,))])
    with pytest.raises(HostError, match="is expected"):
        call("string_rank", [one], {}, [(np.dtype(np.int32), (1,))])
    assert check_attributes("string_concat", {}) is None
    assert "attributes" in (check_attributes("string_concat", {"x": 1}) or "")
    assert "type int" in (check_attributes("string_parts", {"delimiter": "", "maxsplit": True}) or "")
    assert "type tuple" in (check_attributes("string_kept", {"stopwords": "a", "case_sensitive": True}) or "")
    broken: tuple[object, ...] = (1,)
    assert check_attributes("string_kept", {"stopwords": broken, "case_sensitive": True})  # pyright: ignore[reportArgumentType]
    assert all(f.operands and f.results for f in FUNCTIONS.values())
