"""The entries of a listing, sorted in runs of bounded length that are merged into one whole."""

from __future__ import annotations

import gc

import pytest

from rawservers.http.listing.entries import RUN_SIZE, merge_runs, name_text, natural_key, sorted_runs
from tests.harness.listing import shuffled


@pytest.mark.parametrize("count", [0, 1, RUN_SIZE // 3, RUN_SIZE // 3 + 1, 2000])
def test_runs_are_short_and_make_one_whole(count: int) -> None:
    entries = shuffled(count)
    runs = list(sorted_runs(iter(entries)))
    assert [len(run) for run in runs[:-1]] == [RUN_SIZE] * (len(runs) - 1)
    assert all(0 < len(run) <= RUN_SIZE for run in runs)
    key = [(not entry.is_directory, natural_key(name_text(entry.name)), entry.name) for entry in entries]
    assert [row[:3] for row in merge_runs(runs)] == sorted(key)
    assert runs == [[]] * len(runs)


def test_what_is_kept_of_an_entry_is_no_concern_of_the_garbage_collector() -> None:
    runs = list(sorted_runs(shuffled(100)))
    gc.collect()
    assert not any(gc.is_tracked(row) for run in runs for row in run)
