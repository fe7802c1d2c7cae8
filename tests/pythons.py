"""The Pythons that the tests run under, each in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "tests" / "constraints.txt"  # the versions of the test dependencies
VERSIONS = "3.11", "3.12", "3.13"


def search_path() -> list[Path]:
    """Folders that have Pythons: those of PATH, pyenv's and uv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local/share/uv/python")
    return [*map(Path, os.get_exec_path()), *(folder / "bin" for parent in (pyenv, uv) for folder in folders_in(parent))]


def folders_in(parent: Path) -> list[Path]:
    """The folders in it, the newest version first; none if it is not there, or is another user's."""
    try:
        return sorted(parent.iterdir(), reverse=True)
    except OSError:
        return []


def find_pythons(folders: Iterable[Path]) -> dict[str, str]:
    """The path of a Python for each of VERSIONS that is there and can make virtual environments."""
    found: dict[str, str] = {}
    for folder in folders:
        for version in VERSIONS:
            path = folder / f"python{version}"
            # ensurepip: Debian's may be without.
            if version not in found and os.access(path, os.X_OK) and version_of(path, "ensurepip") == version:
                found[version] = str(path)
    return {version: found[version] for version in VERSIONS if version in found}


def version_of(path: Path, module: str = "sys") -> str:
    """As "3.11"; "" if it does not run, as pyenv's shims of other versions, or is without the module."""
    program = f"import sys, {module}; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([path, "-c", program], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def make_environment(python: str, name: str) -> Path:
    """Make the virtual environment of this name, unless it is up to date; returns its Python."""
    folder = ROOT / name
    made_for, wanted = folder / "made-for.toml", (ROOT / "pyproject.toml").read_text() + CONSTRAINTS.read_text()
    inside = folder / "bin" / "python"
    if not made_for.exists() or made_for.read_text() != wanted or version_of(inside) != version_of(Path(python)):
        install(python, folder, "--constraint", str(CONSTRAINTS))
        made_for.write_text(wanted)
    return inside


def install(python: str, folder: Path, *options: str) -> None:
    """Make a virtual environment anew, with the package and the test dependencies."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # "compat": a path in a .pth file, where setuptools' own way is a program that each interpreter runs as it starts.
    editable = "--config-settings", "editable_mode=compat", "--editable"
    subprocess.run([*pip, *options, *editable, f"{ROOT}[test,fuzz]"], check=True)


def renew_constraints() -> None:
    """Install the newest versions, and write them to tests/constraints.txt."""
    install(sys.executable, ROOT / ".venv")
    freeze = [ROOT / ".venv" / "bin" / "python", "-m", "pip", "freeze", "--all", "--exclude", "pip", "--exclude-editable"]
    frozen = subprocess.run(freeze, check=True, stdout=subprocess.PIPE, text=True)
    CONSTRAINTS.write_text("# Made by `python3 -m tests --renew`.\n" + frozen.stdout)
