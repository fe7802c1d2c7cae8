"""What the benchmark needs on a fresh machine: system packages, and a virtual environment of its own for the Python peers.

Whatever cannot be had is not fatal: the rows that would need it say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_PYTHON = "/usr/bin/python3"  # which the service's unit names
ENVIRONMENT = ROOT / ".venv-bench"
PYTHON = ENVIRONMENT / "bin" / "python"

# The command and the Debian package that it comes in.
COMMANDS = {"nginx": "nginx-light", "wrk": "wrk", "lighttpd": "lighttpd", "gcc": "gcc"}


def interpreter() -> str:
    """The Python that all servers written in it are run by: the system's own, as for the service, if it is new enough."""
    return SYSTEM_PYTHON if runs(SYSTEM_PYTHON, "import sys; assert sys.version_info >= (3, 11)") else sys.executable


def runs(python: str, statement: str) -> bool:
    """Whether this Python is there, and runs this without an error."""
    return bool(shutil.which(python)) and subprocess.run([python, "-c", statement], capture_output=True).returncode == 0


def install_commands(commands: Mapping[str, str] = COMMANDS) -> None:
    """Install with apt what is missing, where this runs as root."""
    missing = [package for command, package in commands.items() if shutil.which(command) is None]
    if "gcc" in missing:
        missing.append("libc6-dev")
    if not Path("/usr/include/openssl/ssl.h").exists():
        missing.append("libssl-dev")
    if not runs(interpreter(), "import ensurepip"):  # Debian's own Python comes without
        missing.append("python3-venv")
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=False)
    for package in missing:  # one by one, so that a package that is not there costs no other
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], env=quiet, check=False)


def make_environment() -> bool:
    """Whether there is an environment; it holds what could be installed of the optional dependencies named "bench"."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
    made_for = ENVIRONMENT / "made-for"
    python = interpreter()
    made = repr([python, *wanted])
    if PYTHON.exists() and made_for.exists() and made_for.read_text() == made:
        return True
    if subprocess.run([python, "-m", "venv", "--clear", ENVIRONMENT], check=False).returncode:
        return False
    (ENVIRONMENT / ".gitignore").write_text("*\n")
    if not install(*wanted):
        failed = [requirement for requirement in wanted if not install(requirement)]
        print(f"bench: goes on without {', '.join(failed)}; to try again, remove {ENVIRONMENT}", file=sys.stderr)
    made_for.write_text(made)
    return True


def install(*requirements: str) -> bool:
    command = [str(PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *requirements]
    return subprocess.run(command, check=False).returncode == 0


def forget_python_settings() -> None:
    """For this process and all that it starts: no settings of Python that only this machine has."""
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]  # one keeps compiled modules from being stored, another has output unbuffered


def enter_environment() -> None:
    """Go on in the environment's Python, if this is another, and without settings that only this machine has."""
    forget_python_settings()
    install_commands()
    if Path(sys.prefix) != ENVIRONMENT and make_environment():
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), "-m", "bench", *sys.argv[1:]])


def compile_c(source: Path, program: Path, *options: str) -> Path:
    """Compile `source` as `program`; options: for gcc. RuntimeError says why not."""
    if shutil.which("gcc") is None:
        raise RuntimeError("gcc is not installed")
    done = subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gcc: {done.stderr.strip()}")
    return program
