"""Regular expressions, against Python's where both mean the same."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ingot.runtime.errors import HostError
from ingot.runtime.host.regex import compile_pattern, full_match
from ingot.runtime.host.regex_syntax import MAX_DEPTH

TEXTS = [
    "",
    "a",
    "b",
    "ab",
    "ba",
    "aab",
    "abc",
    "aaaa",
    "A",
    "aB",
    "_",
    "-",
    "]",
    "^",
    "0",
    "12",
    "123",
    "a1",
    "1.5",
    " ",
    "a b",
    "foo bar",
    "\n",
    "a\n",
    "a\nb",
    "x\ty",
    "é",
    "É",
    "ß",
    "日本",
    "\\",
    "$",
    "a$",
    "{",
    "a{2}",
    "a{,2}",
    "user@host.org",
    "a.b@c.de",
]

SAME = [  # in ASCII mode
    "",
    "a",
    "ab",
    "a|b",
    "a|",
    "(a|b)*",
    "(?:a|b)+",
    "a*b?c*",
    "a{2}",
    "a{2,}",
    "a{1,3}b",
    "a{0}",
    "(a{2}){2}",
    "[ab]+",
    "[^ab]",
    "[a-c]+",
    "[]a]",
    "[^]a]",
    "[-a]",
    "[a-]",
    r"[\]\-^]",
    r"\d+",
    r"\D",
    r"\w+",
    r"\W",
    r"\S+",
    r"[\d.]+",
    r"[^\d]",
    ".",
    ".*",
    "(?s).*",
    "(?s:.)a*",
    "(?i)ab",
    "(?i:a)b",
    "(?i)[a-b]+",
    "(?i)[^a]",
    "a??b",
    "a*?b+?",
    "^a$",
    "^a",
    "a$",
    r"\Aa",
    r"\ba\b",
    r"\b.*\b",
    r"a\Bb",
    r"\w+\b.*",
    r"foo\b \bbar",
    "(?m)a$\n^b",
    "(?m:^)a",
    r"\x61",
    r"\141",
    r"\n",
    r"\t",
    r"a\$",
    r"\.",
    r"\\",
    r"\{",
    "{",
    "a{x",
    r"[\w.]+@[\w]+\.[a-z]{2,3}",
    "(?P<name>a)b",
    "(a)(b)?",
    "(a*)*",
    "(a|a)*b",
    "(|a)+",
    "é",
    "[à-ÿ]",
    "日+本",
]


@pytest.mark.parametrize("pattern", SAME)
def test_patterns_that_python_reads_alike(pattern: str) -> None:
    own = re.compile(pattern, re.ASCII if "(?i" not in pattern else 0)
    wanted = [own.fullmatch(t) is not None for t in TEXTS]
    if pattern in ("a$", "^a$"):  # Python's $ is true before a last line feed as well, but then not all has matched
        assert not wanted[TEXTS.index("a\n")]
    assert full_match(np.array(TEXTS, object), pattern).tolist() == wanted


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"\z", [""], ["a", "\n"]),
        (r"a\z", ["a"], ["a\n"]),
        (r"\Qa.b*\E+", ["a.b*", "a.b**"], ["axb*"]),
        (r"\Q", [""], ["Q"]),
        (r"[[:alpha:]]+", ["ab", "Z"], ["", "a1", "é"]),
        (r"[[:^alpha:]]+", ["12", "é"], ["a"]),
        (r"[[:space:]x]+", ["\v x"], ["y"]),
        (r"\s", [" ", "\t", "\f"], ["\v", "\u00a0"]),
        (r"\pL+", ["aé日"], ["1", ""]),
        (r"\p{Lu}\P{Lu}", ["Éa", "A1"], ["aa"]),
        (r"\p{^Lu}", ["a", "1"], ["A"]),
        (r"[\pN\-]+", ["1-2", "Ⅷ"], ["a"]),
        (r"\p{Any}", ["a", "\n"], ["", "ab"]),
        (r"\P{Any}", [], ["", "a"]),
        (r"\x{1F600}", ["😀"], ["x"]),
        (r"[\x00-\x7F]*", ["abc\0"], ["é"]),
        (r"(?i)straße", ["STRAßE"], ["STRASSE"]),
        (r"(?i)k", ["K", "k", "\u212a"], ["q"]),
        (r"(?i-i)a", ["a"], ["A"]),
        (r"(?U)a+", ["aa"], [""]),
        (r"(?i)a(?-i)b", ["Ab"], ["AB"]),
        (r"(?<name>a)+", ["aa"], [""]),
        (r"\C?", [], None),
        (r"\a\f\v", ["\a\f\v"], [""]),
        (r"a{2}{3}", [], None),
        (r"a{,2}", ["a{,2}"], ["aa"]),
    ],
)
def test_what_is_re2_alone(pattern: str, matching: list[str], other: list[str] | None) -> None:
    if other is None:
        with pytest.raises(HostError):
            compile_pattern(pattern)
        return
    assert full_match(np.array(matching, object), pattern).all()
    assert not full_match(np.array(other, object), pattern).any()


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "a)",
        "(a",
        "[",
        "[a",
        "[]",
        "[b-a]",
        "*",
        "+a",
        "?",
        "a**",
        "a*+",
        "a|*",
        "{2}",
        "a{2}{2}",
        "a{1001}",
        "a{99999}",
        "a{3,2}",
        "\\",
        r"\1",
        r"\8",
        r"\y",
        r"\Z",
        r"\C",
        r"\x",
        r"\x{110000}",
        r"\pQ",
        r"\p{Greek}",
        "(?",
        "(?z)",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<n>a)(?P<n>b)",
        "(?<1-2>a)",
        "(?)",
        "[[:nothing:]]",
        r"\p",
        "(?i",
        "((a{1000}){1000}){1000}",
        "(" * (MAX_DEPTH + 1) + ")" * (MAX_DEPTH + 1),
        "a" * 70000,
        "[\\",
        "[a-",
        "(?:" * 5000,
    ],
)
def test_what_is_refused(pattern: str) -> None:
    with pytest.raises(HostError):
        compile_pattern(pattern)


def test_more_states_than_are_remembered() -> None:
    """The deterministic automaton of this one has 2**13 states."""
    rng = np.random.default_rng(7)
    texts = ["".join(rng.choice(["a", "b"], 60)) for _ in range(200)]
    own = re.compile("(?:a|b)*a(?:a|b){12}")
    for _ in range(2):
        found = full_match(np.array(texts, object), "(a|b)*a(a|b){12}")
        assert found.tolist() == [own.fullmatch(t) is not None for t in texts]
    letters = np.array([chr(i) for i in range(32, 5000)], object)
    assert full_match(letters, ".").all() and not full_match(letters, r"[^\x00-\x{10FFFF}]").any()


def test_time_is_linear() -> None:
    """What makes backtracking take exponential time is done at once."""
    text = "a" * 3000 + "b"
    for pattern in ("(a*)*c", "(a|a)*c", "(a|aa)+c", "(.*)*c", "(a?){500}a{500}c"):
        assert not full_match(np.array([text], object), pattern)[0]


def test_results_have_the_shape_of_the_strings() -> None:
    assert full_match(np.full((2, 0), "", object), "a").shape == (2, 0)
    assert full_match(np.array("a", object), "a").shape == ()
