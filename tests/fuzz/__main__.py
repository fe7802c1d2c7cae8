"""Coverage-guided fuzzing: python3 -m tests.fuzz TARGET [--runs N] [--seconds S] [--corpus FOLDER]

It begins with the inputs of tests/fuzz/inputs/TARGET.txt and of the wire vectors, and ends after N inputs, after S seconds, or
at the first input that fails. The exit status is 1 then, and the input and the traceback are shown. An input that is worth
keeping is added to the corpus as a line, or, better, becomes a vector.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import NAMES

OPTIONS = ("-max_len=4096", "-timeout=30", "-rss_limit_mb=512", "-print_final_stats=1")  # of libFuzzer


def main() -> int:
    """The exit status: 0 if no input has failed."""
    parser = argparse.ArgumentParser("python3 -m tests.fuzz", description="coverage-guided fuzzing")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--runs", type=int, default=-1, help="inputs (default: until one fails)")
    parser.add_argument("--seconds", type=int, default=0, help="time (default: no limit)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of inputs (default: another one each time)")
    parser.add_argument("--corpus", type=Path, help="a folder to keep inputs in that have reached something new")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = said.corpus or Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        own = (f"-runs={said.runs}", f"-max_total_time={said.seconds}", f"-seed={said.seed}", f"-artifact_prefix={folder}/")
        command = [sys.executable, "-m", "tests.fuzz.run", said.target, f"{folder}/site", *OPTIONS, *own, str(corpus)]
        status = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"}).returncode
        for path in Path(folder).glob("*-*"):
            print(f"{path.name.partition('-')[0]}: {path.read_bytes()!r}")
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
