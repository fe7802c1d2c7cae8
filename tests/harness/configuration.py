"""Configuration files: loaded, or refused with what is wrong in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import pytest

from rawservers.config import source, toml
from rawservers.services import default_addresses
from rawservers.settings import Config, ConfigError
from tests.example_configuration import uncommented, written

EXAMPLE = uncommented(written())

# What no key takes, but for `true` where there is a switch.
WRONG = ["true", "-1", "-0.5", '"\\u0000"', "[1979-05-27]", "{ a.b.c = 1 }", "1979-05-27"]


def load(path: str, services: Mapping[str, str], given: Sequence[str] = ()) -> Config:
    """The Config of the file at this path."""
    with mock.patch.object(source, "SETTLE_TIME", 0):
        return toml.load(source.read_settled(path), path, services, given)


def loaded(path: Path, text: str, given: tuple[str, ...] = ()) -> Config:
    path.write_text(text)
    return load(str(path), default_addresses(), given)


def mistakes(path: Path, text: str | bytes) -> list[str]:
    """What is wrong with such a file, without its folder."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as error:
        load(str(path), default_addresses())
    assert str(error.value) == "\n".join(error.value.errors)
    assert not [line for line in error.value.errors if len(line.splitlines()) != 1]
    return [line.removeprefix(f"{path.parent}/") for line in error.value.errors]


def keys_of(text: str) -> Iterator[tuple[str, int]]:
    """Every key of the example and its line."""
    table = ""
    for line, said in enumerate(text.splitlines(), 1):
        if header := re.fullmatch(r"\[+([a-z.]+)\]+", said):
            table = f"{header[1]}."
        elif key := re.match(r"([a-z_]+) = ", said):
            yield table + key[1], line
