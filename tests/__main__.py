"""The test command: sets up what the tests need, then runs pytest.

python3 -m tests                        the quick suite, and its unit part under each other Python that is found
python3 -m tests PYTEST ARGUMENTS       what they say, under this Python alone
python3 -m tests -m slow                the slow suite
python3 -m tests --renew                newer versions of the test dependencies, into tests/constraints.txt

In CI, if only a few tests have failed, they are run once more, one by one, as those of CPython are. If all of them then pass,
they are named as unsteady: that is a defect of the test or of the server, but no reason to refuse a change.

The set-up is a virtual environment in .venv (those of other Pythons: .venv-3.12, ...), and the real clients that the tests
drive, with apt as root. Without root a missing client is a visible skip; where the variable CI is set it is a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tests.pythons import ROOT, VERSIONS, find_pythons, make_environment, renew_constraints, search_path

# The command, or a file, and the Debian package that it comes in.
CLIENTS = {
    "/usr/bin/python3": "python3",
    "/usr/lib/nginx/modules/ngx_stream_module.so": "libnginx-mod-stream",
    "ab": "apache2-utils",
    "apt-get": "apt",
    "aria2c": "aria2",
    "busybox": "busybox",
    "chromium": "chromium",
    "curl": "curl",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "fish": "fish",
    "git": "git",
    "haproxy": "haproxy",
    "htpasswd": "apache2-utils",
    "httpdirfs": "httpdirfs",
    "ip": "iproute2",
    "inetutils-telnet": "inetutils-telnet",
    "man": "man-db",
    "mandoc": "mandoc",
    "mount": "mount",
    "nc.openbsd": "netcat-openbsd",
    "ncat": "ncat",
    "nft": "nftables",
    "nginx": "nginx-light",
    "node": "nodejs",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "plink": "putty-tools",
    "promtool": "prometheus",
    "ps": "procps",
    "rclone": "rclone",
    "socat": "socat",
    "setpriv": "util-linux",
    "strace": "strace",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
    "valgrind": "valgrind",
    "wget": "wget",
    "zsh": "zsh",
    "zsync": "zsync",
    "zsyncmake": "zsync",
}


def install_clients() -> None:
    missing = [package for command, package in CLIENTS.items() if not (shutil.which(command) or os.path.exists(command))]
    if importlib.util.find_spec("ensurepip") is None:  # Debian's own Python comes without
        missing.append("python3-venv")
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=False)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=quiet, check=True)


MOST_UNSTEADY = 3  # tests that are run once more; more failures than that are no accident


def run_pytest(python: str | os.PathLike[str], arguments: Sequence[str]) -> int:
    """Run the tests; returns the exit status. In CI, a few that have failed are run once more, one by one."""
    cache = ROOT / ".pytest_cache/v/cache/lastfailed"
    cache.unlink(missing_ok=True)
    status = subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode
    failed = list(json.loads(cache.read_text())) if status == 1 and os.environ.get("CI") and cache.exists() else []
    if not 0 < len(failed) <= MOST_UNSTEADY:
        return status
    print("\nRun once more, one by one:", *failed, sep="\n  ", flush=True)
    options = [each for each in arguments if not each.startswith("tests")]
    status = subprocess.run([python, "-m", "pytest", *options, "-n", "0", *failed], cwd=ROOT).returncode
    print("Failed again:" if status else "UNSTEADY, they passed when run once more:", *failed, sep="\n  ", flush=True)
    return status


def run_all() -> int:
    """Run the quick suite under this Python, and its unit part under the others; returns the exit status."""
    this = "{}.{}".format(*sys.version_info)
    pythons = {this: sys.executable} | find_pythons(search_path()) | {this: sys.executable}
    missing = [version for version in VERSIONS if version not in pythons]
    print("Pythons found:", *(f"{version} ({path})" for version, path in pythons.items()), flush=True)
    if missing:
        print("Pythons not found, and not tested:", *missing, flush=True)
    statuses = []
    for version, path in pythons.items():
        name, arguments = (".venv", []) if version == this else (f".venv-{version}", ["tests/unit"])
        print(f"Python {version}: {arguments[0] if arguments else 'the quick suite'}", flush=True)
        python = make_environment(path, name)
        statuses.append(run_pytest(python, arguments))
    return int(any(statuses))  # one that was killed is negative


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the tests start a thousand interpreters, each a third faster so
    install_clients()
    if sys.argv[1:] == ["--renew"]:
        sys.exit(renew_constraints())
    if not sys.argv[1:]:
        sys.exit(run_all())
    sys.exit(run_pytest(make_environment(sys.executable, ".venv"), sys.argv[1:]))
