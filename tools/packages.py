"""The packages: sdist, wheel, the archive rawservers.pyz, and what a system has in share/. They are made and checked here."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from packaging.metadata import Metadata
from readme_renderer import markdown

from tools import archive

HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]), file=sys.stderr)"
NOTHING_EXCLUDED = "no previously-included files matching"  # a clean checkout has no bytecode
SUMS = "SHA256SUMS"


class BuildError(Exception):
    """A package cannot be made, or is not as it should be."""


def build(tree: Path, target: Path) -> list[Path]:
    """Make all packages of the checkout `tree`, which changes, in the empty folder `target`. Raises BuildError.

    The wheel is made from the sdist, which shows that this has what it needs.
    """
    sdist = setuptools("build_sdist", tree, target)
    with TemporaryDirectory() as folder:
        with tarfile.open(sdist) as file:
            extract(file, folder)
        (unpacked,) = Path(folder).iterdir()
        wheel = setuptools("build_wheel", unpacked, target)
        pyz = target / archive.NAME
        archive.write_archive(unpacked, pyz)
    return [sdist, wheel, pyz, share(wheel)]


def extract(file: tarfile.TarFile, folder: str) -> None:
    """Extract all, with the filter that Pythons have since 3.11.4."""
    file.extraction_filter = getattr(tarfile, "data_filter", None)
    file.extractall(folder)


def setuptools(hook: str, tree: Path, target: Path) -> Path:
    """Call a hook of PEP 517 in `tree`; what it has made in `target`. Warnings are errors."""
    before = set(target.iterdir())
    command = [sys.executable, "-W", "error", "-c", HOOK, hook, str(target)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search("warning|deprecated", line, re.IGNORECASE)]
    if done.returncode or any(NOTHING_EXCLUDED not in line for line in lines):
        raise BuildError(f"{hook} failed, or has warned:\n{done.stderr}")
    (made,) = set(target.iterdir()) - before
    return made


def share(wheel: Path) -> Path:
    """An archive of what the wheel installs below share/, for systems on which the package comes without pip."""
    name, version, *_ = wheel.name.split("-")
    target = wheel.with_name(f"{name}-{version}-share.tar.gz")
    with ZipFile(wheel) as source, TemporaryDirectory() as folder, tarfile.open(target, "w:gz") as file:
        data = f"{name}-{version}.data/data/"
        source.extractall(folder, [each for each in source.namelist() if each.startswith(data)])
        file.add(Path(folder, data, "share"), "share")
    return target


def check_metadata(wheel: Path) -> Message:
    """The metadata of a wheel, as an index takes it, with a description that can be shown. Raises BuildError."""
    with ZipFile(wheel) as file:
        (name,) = [each for each in file.namelist() if each.endswith(".dist-info/METADATA")]
        content = file.read(name)
    try:
        metadata = Metadata.from_email(content, validate=True)
    except ExceptionGroup as errors:
        raise BuildError(f"{wheel.name}: {'; '.join(map(str, errors.exceptions))}") from errors
    if metadata.description_content_type != "text/markdown" or not markdown.render(metadata.description or ""):
        raise BuildError(f"{wheel.name}: the description cannot be rendered")
    return BytesParser().parsebytes(content)


def write_sums(files: list[Path]) -> Path:
    """Write the checksums of `files` beside them, for `sha256sum --check`."""
    target = files[0].with_name(SUMS)
    target.write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files))
    return target
