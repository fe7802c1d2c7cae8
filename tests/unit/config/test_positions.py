"""The lines of keys in a TOML file, as far as mistakes are told with them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rawservers.config.positions import line_numbers, line_of
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


def test_a_long_array_takes_linear_time(path: Path) -> None:
    begun = time.process_time()
    assert mistakes(path, "zzz = [\n" + "'a',\n" * 100_000 + "]\nyyy = 1")[1:] == ["conf.toml:100003: yyy: unknown key"]
    assert time.process_time() - begun < 5


def test_lines_that_end_as_on_windows(path: Path) -> None:
    assert mistakes(path, b"\r\n[http]\r\nhosts = [\r\n'a',\r\n5]\r\nx = 1\r\n") == [
        "conf.toml:3: http.hosts: expected a host name without a port, not 5",
        "conf.toml:6: http.x: unknown key",
    ]
