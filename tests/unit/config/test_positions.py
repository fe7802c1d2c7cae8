"""The lines of keys in a TOML file, as far as mistakes are told with them."""

from __future__ import annotations

from pathlib import Path

from rawservers.config.positions import line_numbers
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
    assert {keys: found[keys] for keys in lines} == lines


def test_lines_that_end_as_on_windows(path: Path) -> None:
    assert mistakes(path, b"\r\n[http]\r\nhosts = [\r\n'a',\r\n5]\r\nx = 1\r\n") == [
        "conf.toml:3: http.hosts: expected a host name without a port, not 5",
        "conf.toml:6: http.x: unknown key",
    ]
