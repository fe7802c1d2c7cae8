"""Clients that fetch a file in parts: in many at a time, only those that have changed, or where they seek."""

from __future__ import annotations

import fractions
import math
import random
import wave
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from tests.harness.clients import private, run, serving, traffic
from tests.harness.needs import need

MIB = 1 << 20


# aria2


def aria2(folder: Path, url: str) -> None:
    """Fetch in parts of a MiB, sixteen at a time."""
    options = ("--no-conf", "--quiet", "--file-allocation=none", "-x16", "-s16", "-k1M", "--max-tries=1", "--async-dns=false")
    run(need("aria2c"), *options, "-d", folder, url, env=private(folder))


def test_aria2_with_sixteen_connections(folder: Path, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(32 * MIB + 7)
    (folder / "big").write_bytes(content)
    with serving(folder) as server:
        aria2(tmp_path / "target", f"{server.url}/big")
        assert (tmp_path / "target/big").read_bytes() == content
        seen = traffic(server)
        # The first request is for the whole file, and given up where the parts of the others begin.
        assert {entry.status for entry in seen.entries} == {200, 206}
        assert seen.count(206) >= 8
        assert 8 < seen.connections <= 32  # one that ends as its part does may be opened again


# zsync

BLOCK = 2048  # bytes; zsyncmake is told so


def zsync(folder: Path, old: Path, url: str) -> None:
    run(need("zsync"), "-q", "-i", old, "-o", folder / "new", url, cwd=folder, env=private(folder / "home"))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("changes", [1])
def test_zsync_fetches_what_has_changed(changes: int, version: str, folder: Path, tmp_path: Path) -> None:
    """It asks for twenty parts at a time, and each time by a connection of its own if it is answered in HTTP/1.0."""
    source = random.Random(changes)
    new = source.randbytes(400 * BLOCK)
    old = bytearray(new)
    for change in range(changes):
        at = (400 // changes * change + 5) * BLOCK
        old[at : at + BLOCK] = source.randbytes(BLOCK)
    (folder / "new").write_bytes(new)
    (tmp_path / "old").write_bytes(old)
    with serving(folder, f'version = "{version}"') as server:
        run(need("zsyncmake"), "-b", str(BLOCK), "-u", f"{server.url}/new", "-o", folder / "new.zsync", folder / "new")
        zsync(tmp_path, tmp_path / "old", f"{server.url}/new.zsync")
        assert (tmp_path / "new").read_bytes() == new
        seen = traffic(server)
    parts = [entry for entry in seen.entries if entry.line.startswith("GET /new ")]
    assert {entry.status for entry in parts} == {206}
    assert changes * BLOCK <= sum(entry.size for entry in parts) < changes * (BLOCK + 512)
    assert len(parts) == math.ceil(changes / 20)
    assert seen.connections == 1 + (len(parts) if version == "1.0" else 1)


# FFmpeg's libraries, as in ffmpeg, mpv, VLC and browsers

RATE = 44100  # samples a second
SECONDS = 600


def first_sample(url: str, second: int) -> int:
    """That of the sound from this second on."""
    with av.open(url) as container:
        container.seek(second * av.time_base)
        for frame in container.decode(audio=0):
            assert frame.time is not None
            if second < frame.time + frame.samples / RATE:
                offset = round((second - frame.time) * RATE) * 2
                return int.from_bytes(bytes(frame.planes[0])[offset : offset + 2], "little", signed=True)
    raise AssertionError("it ended before")


def sound(second: int) -> bytes:
    """A second of samples, all with its number."""
    return second.to_bytes(2, "little") * RATE


def write_wav(path: Path) -> None:
    """What it holds is told at its beginning."""
    with wave.open(str(path), "wb") as target:
        target.setparams((1, 2, RATE, 0, "NONE", ""))
        for second in range(SECONDS):
            target.writeframes(sound(second))


def write_mov(path: Path) -> None:
    """What it holds is told at its end."""
    with av.open(str(path), "w", format="mov") as target:
        stream = target.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for second in range(SECONDS):
            packet = av.Packet(sound(second))
            packet.stream = stream
            packet.time_base = fractions.Fraction(1, RATE)
            packet.pts = packet.dts = second * RATE
            packet.duration = RATE
            target.mux(packet)


@pytest.mark.parametrize("write", [write_wav, write_mov])
@pytest.mark.parametrize("second", [7, 500])
def test_ffmpeg_seeks(second: int, write: Callable[[Path], None], folder: Path) -> None:
    """In far less than it would take to read up to there."""
    write(folder / "sound")
    with serving(folder) as server:
        assert first_sample(f"{server.url}/sound", second) == second
        seen = traffic(server)
    assert {entry.status for entry in seen.entries} == {206}
    assert seen.connections == len(seen.entries) >= (2 if second == 500 else 1)
    assert seen.size() < (folder / "sound").stat().st_size * 5 // 6
