"""Every input that fuzzing begins with, and has found, without a fuzzer; and the oracle for hangs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from rawservers.http import request
from tests.fuzz import NAMES, corpus, steps, targets


@pytest.mark.parametrize("one_in", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_what_fuzzing_begins_with(name: str, one_in: int, tmp_path: Path) -> None:
    target = targets.make(name, tmp_path)
    inputs = corpus.seeds(name)[::one_in]
    assert inputs
    for data in [b"", *inputs, *(data[: len(data) // 2] for data in inputs)]:
        steps.bounded(target, data)


def test_the_targets_have_names_and_the_files_targets() -> None:
    assert set(NAMES) == set(targets.MAKERS)
    assert {path.stem for path in corpus.INPUTS.glob("*.txt")} <= set(NAMES)


def test_a_loop_without_end_is_noticed() -> None:
    with pytest.raises(steps.TooManyLines, match=r"^1,000 lines for 0 bytes$"):
        steps.counted(lambda data: [request.parse(b"GET / HTTP/1.0\r\n\r\n") for _ in itertools.count()], b"", 1000)
