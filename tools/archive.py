"""rawservers.pyz: the package as one file that Python runs without an installation (zipapp).

python3 -m tools.archive    makes it in dist/, without a virtual environment
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

NAME = "rawservers.pyz"
MAIN = b"import sys\n\nfrom rawservers.__main__ import main\n\nsys.exit(main())\n"


def write_archive(tree: Path, target: Path) -> None:
    """Write it to `target`, from the package in `tree`. The same package gives the same bytes."""
    package = tree / "rawservers"
    files = {"__main__.py": MAIN}
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            files[path.relative_to(tree).as_posix()] = path.read_bytes()
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(ZipInfo(name), content, ZIP_DEFLATED)
    target.chmod(0o755)


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent.parent / "dist"
    folder.mkdir(exist_ok=True)
    write_archive(folder.parent, folder / NAME)
    print(folder / NAME)
