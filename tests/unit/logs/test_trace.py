"""The trace on standard error: lines that are dropped are counted, and said once the reader reads again."""

from __future__ import annotations

import os

from rawservers.logs import sink
from rawservers.logs.trace import TraceLog
from tests.harness.waiting import until


def test_dropped_lines_are_counted() -> None:
    reader, writer = os.pipe()
    log = TraceLog(writer, colour=False)
    line = b"x" * 1023 + b"\n"
    written = 0
    while not log.sink.dropped:
        log.write(line)
        written += 1
    assert written * len(line) > sink.MAX_PENDING
    for _ in range(7):
        log.write(line)
    data = b""
    while b"dropped" not in data:
        data += os.read(reader, 1 << 16)
        log.write()
    until(lambda: data.endswith(b"\n"), "whole lines")
    assert data.endswith(b"\ntrace: 8 lines dropped (reader too slow)\n")
    assert data.count(line) == written - 1
    log.finish()
    log.sink.close()
    os.close(reader)
