"""One target under atheris, in a process of its own: python3 -m tests.fuzz.run TARGET FOLDER OPTIONS OF LIBFUZZER"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rawservers"]):
    from tests.fuzz import corpus, steps, targets


def main() -> None:
    name, site, *options = sys.argv[1:]
    Path(site).mkdir()
    target = targets.make(name, Path(site))
    for number, data in enumerate(corpus.seeds(name)):
        Path(options[-1], f"seed-{number}").write_bytes(data)
    atheris.Setup([sys.argv[0], *options], lambda data: steps.bounded(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
