"""The test command: sets up what the tests need, then runs pytest.

python3 -m tests [PYTEST ARGUMENTS]     the quick suite
python3 -m tests -m slow                the slow one
python3 -m tests --renew                newer versions of the test dependencies, into tests/constraints.txt

The set-up is a virtual environment in .venv, and the real clients that the tests drive, with apt as root. Without root a
missing client is a visible skip; where the variable CI is set it is a failure.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
CONSTRAINTS = ROOT / "tests" / "constraints.txt"  # the versions of the test dependencies

# The command and the Debian package that it comes in.
CLIENTS = {
    "/usr/bin/python3": "python3",
    "ab": "apache2-utils",
    "apt-get": "apt",
    "aria2c": "aria2",
    "busybox": "busybox",
    "curl": "curl",
    "dpkg-deb": "dpkg",
    "git": "git",
    "haproxy": "haproxy",
    "httpdirfs": "httpdirfs",
    "ip": "iproute2",
    "inetutils-telnet": "inetutils-telnet",
    "mount": "mount",
    "nc.openbsd": "netcat-openbsd",
    "ncat": "ncat",
    "nginx": "nginx-light",
    "node": "nodejs",
    "nsenter": "util-linux",
    "plink": "putty-tools",
    "rclone": "rclone",
    "socat": "socat",
    "setpriv": "util-linux",
    "strace": "strace",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
    "wget": "wget",
    "zsync": "zsync",
    "zsyncmake": "zsync",
}


def install_clients() -> None:
    missing = [package for command, package in CLIENTS.items() if shutil.which(command) is None]
    if importlib.util.find_spec("ensurepip") is None:  # Debian's own Python comes without
        missing.append("python3-venv")
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=False)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=quiet, check=True)


def make_environment() -> None:
    wanted = (ROOT / "pyproject.toml").read_text() + CONSTRAINTS.read_text()
    made_for = ROOT / ".venv" / "made-for.toml"
    if PYTHON.exists() and made_for.exists() and made_for.read_text() == wanted:
        return
    install("--constraint", str(CONSTRAINTS))
    made_for.write_text(wanted)


def install(*options: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", ROOT / ".venv"], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *options, "--editable", f"{ROOT}[test]"], check=True)


def renew_constraints() -> None:
    """Install the newest versions, and write them to tests/constraints.txt."""
    install()
    frozen = subprocess.run(
        [PYTHON, "-m", "pip", "freeze", "--exclude-editable"], check=True, stdout=subprocess.PIPE, text=True
    )
    CONSTRAINTS.write_text("# Made by `python3 -m tests --renew`.\n" + frozen.stdout)


if __name__ == "__main__":
    install_clients()
    if sys.argv[1:] == ["--renew"]:
        sys.exit(renew_constraints())
    make_environment()
    os.chdir(ROOT)
    os.execv(PYTHON, [PYTHON, "-m", "pytest", *sys.argv[1:]])
