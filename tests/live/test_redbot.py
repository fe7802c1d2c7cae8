"""Real answers as redbot sees them, which asks a server many times."""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

# All that redbot may say of a good file. The first two of the caching category follow from there being no max_age.
PRAISE = r"""
    The server's clock is correct\.
    The resource last changed .* ago\.
    The Content-Length header is correct\.
    This response allows all caches to store it\.
    This response allows caches to assign their own freshness lifetimes to it\.
    In exceptional circumstances, caches can serve this response stale\.
    If-None-Match conditional requests are supported\.
    If-Modified-Since conditional requests are supported\.
    A ranged request returned the correct partial content\.
""".strip().split("\n    ")
COMPRESSED = r"Content negotiation for gzip compression is supported, saving \d\d%\."


def test_redbot_of_a_page_a_big_file_and_a_precompressed_script(folder: Path, server: Server) -> None:
    script = b"".join(b"export const name%d = %d;\n" % (i, i) for i in range(3000))
    (folder / "page.html").write_text('<!DOCTYPE html>\n<html lang="en">\n<title>A page</title>\n<p>' + "Some text. " * 500)
    (folder / "big.bin").write_bytes(random.Random(1).randbytes(3_000_000))
    (folder / "app.js").write_bytes(script)
    (folder / "app.js.gz").write_bytes(gzip.compress(script))
    for path in folder.iterdir():
        os.utime(path, (784111777, 784111777))  # of a change in this very second, it does not say how long ago it was
    for name, expected in {"page.html": PRAISE, "big.bin": PRAISE, "app.js": [*PRAISE, COMPRESSED]}.items():
        command = [Path(sys.executable).with_name("redbot"), "-o", "text", f"{server.url}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("HTTP/1.0 200 OK\n")
        said = re.findall(r"^ *\* (.*\.)$", done.stdout, re.MULTILINE)
        assert len(said) == len(expected), done.stdout
        for pattern in expected:
            assert [line for line in said if re.fullmatch(pattern, line)], (pattern, done.stdout)
    until(lambda: any("RED/" in line and '" 304 ' in line for line in server.log()), "the line of an answer without content")
    assert "Traceback" not in server.stderr()
