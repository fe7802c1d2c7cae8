"""The lines of keys in a TOML file, as far as mistakes are told with them."""

from __future__ import annotations

import itertools
import string
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from rawservers.config import positions
from rawservers.config.positions import line_numbers, line_of, not_toml, statements
from tests.harness.configuration import mistakes

TEXT = """
a = 1
b.c.d = 2 ; b.c.e = 3
t = {x = 1, y = {z = 2}}

  [ tab ]  # comment
  s = '''
[not.a.header]
  a = 5
'''
array = [
  1, # one
  [2, "]"],
  {f = 1},
]
[[many]]
k = 1
[many.below]
k = 2
[[many]]
"q.q" = 3
[many.below]
k = 4
[[many.more]]
k = 5
[[many.more]]
k = 6
[tab.sub.sub]
k = 7
[ "tab" . 'q.q' ]
k . "l" = 8
[["many"]]
[many.last] # ]
k = {}
""".replace(" ; ", "\n")


def test_the_line_of_every_key() -> None:
    lines = {
        (): 1,
        ("a",): 2,
        ("b", "c", "d"): 3,
        ("b", "c", "e"): 4,
        ("t",): 5,
        ("t", "y", "z"): 5,
        ("tab",): 7,
        ("tab", "s"): 8,
        ("tab", "array"): 12,
        ("tab", "array", 1, 0): 12,
        ("tab", "array", 2, "f"): 12,
        ("many",): 17,
        ("many", 0): 17,
        ("many", 0, "k"): 18,
        ("many", 0, "below"): 19,
        ("many", 0, "below", "k"): 20,
        ("many", 1): 21,
        ("many", 1, "q.q"): 22,
        ("many", 1, "below", "k"): 24,
        ("many", 1, "more", 0, "k"): 26,
        ("many", 1, "more", 1, "k"): 28,
        ("tab", "sub"): 29,
        ("tab", "sub", "sub", "k"): 30,
        ("tab", "q.q"): 31,
        ("tab", "q.q", "k", "l"): 32,
        ("many", 2): 33,
        ("many", 2, "last", "k", "x"): 35,
    }
    found = line_numbers(TEXT)
    assert {keys: line_of(keys, found) for keys in lines} == lines


@pytest.mark.parametrize(
    "value",
    [
        '"]"',
        "'['",
        '"\\"["',
        '"""["""',
        "'''['''",
        '"""\n["\n\\""""',
        '["""]""""", "]"]',
        '["""a"""", "]"]',
        "['''\n]''''']",
        '""',
        '""""""',
        "''",
        "''''''",
        "[ # ]\n]",
        '[ # "\n]',
        "[[\n], [{a = ']'}]]",
        "1 # [",
        "{a = [\n1,\n]}",
    ],
)
def test_the_end_of_a_value(path: Path, value: str) -> None:
    line = value.count("\n") + 2
    assert mistakes(path, f"[http]\nerror_pages.x = {value}\nzzz = 1")[-1] == f"conf.toml:{line + 1}: http.zzz: unknown key"
    assert line_numbers(f"a = {value}\n\nb = 1\n")["b",] == line + 1


NAMES = ["".join(letters) for letters in itertools.islice(itertools.product(string.ascii_lowercase, repeat=4), 100_000)]


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("zzz = [\n" + "'a',\n" * 100_000 + "]\nyyy = 1", 0),
        ("".join(f"{name} = 1\n" for name in NAMES), 0),
        ("http.index = [\n" + "'.a',\n" * 100_000 + "]\nyyy = 1", 0),
        ("[x]\n" * 1000 + "y = 1", 0),
        ("".join(f"'{name}' = 1\n" for name in NAMES[:1000]), 1000),
        ("".join(f"[['{name}']]\n" for name in NAMES[:1000]), 1000),
        ("a = 1\n" * 50_000 + "b = " + "[" * 500_000, 1),
        ("a = '2020-01-01'\nb = 1\n" * 1000 + "c = 2020-02-31", 1001),
        ("a = 1\n" * 100_000 + "b = [", 0),
    ],
)
def test_a_line_is_found_with_few_parses(text: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing each statement would take seconds. most: of the statements that are parsed, which are the longest part of it."""
    parses: list[str] = []

    def loads(text: str) -> dict[str, object]:
        parses.append(text)
        return tomllib.loads(text)

    monkeypatch.setattr(positions, "tomllib", SimpleNamespace(loads=loads))
    if "zzz" not in text and text.startswith("a = "):
        not_toml("conf.toml", text, ValueError("Invalid (at end of document)" if text.endswith("b = [") else "Invalid"))
    else:
        line_numbers(text)
    assert len(parses) <= most


@pytest.mark.parametrize("text", ['"' + '\\"' * 500_000, "'" * 999_999, '"' * 999_999, "[" * 999_999, "a = " + "{[" * 400_000])
def test_the_longest_nonsense_is_cut_once(text: str) -> None:
    """Each character is in one token at most, also if no string has an end."""
    found = [match.span() for match in positions.TOKEN.finditer(text)]
    assert sum(end - start for start, end in found) <= len(text)
    assert "".join(statement for _, statement in statements(text)) == text


def test_a_report_is_bounded(path: Path) -> None:
    found = mistakes(path, "".join(f"{name} = 1\n" for name in NAMES[:1000]))
    assert found[0] == "conf.toml:1: aaaa: unknown key"
    assert (len(found), found[-1]) == (101, "conf.toml: 900 more errors")
    (line,) = mistakes(path, "a" * 5000 + " = 1")
    assert line == f"conf.toml:1: {'a' * 77}...: unknown key"
    assert len(mistakes(path, f"http.fallback = '/.{'a' * 5000}'")[0]) < 600
    (line,) = mistakes(path, 'http.types.".a" = "a/b;' + " " * 500_000 + '\x7f"'.replace("\x7f", "\\u0080"))
    assert "expected a media type" in line


def test_lines_that_end_as_on_windows(path: Path) -> None:
    assert mistakes(path, b"\r\n[http]\r\nhosts = [\r\n'a',\r\n5]\r\nx = 1\r\n") == [
        "conf.toml:3: http.hosts: expected a host name without a port, not 5",
        "conf.toml:6: http.x: unknown key",
    ]
