"""An image of the Containerfile without a container engine: its steps on a base by debootstrap, and its process in namespaces.

It wants root, and a mirror of Debian.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from tests.harness.checkout import tracked_files
from tests.harness.machine import PATH, enter_network
from tests.harness.needs import ROOT, need, need_root, unable
from tests.harness.processes import children

MIRROR = "http://deb.debian.org/debian"
BASE = re.compile(r"docker\.io/library/debian:([a-z]+)-slim")

# Run by sh in new namespaces, with a root directory, a folder, and the command. Nothing but the folder's content may change.
ENTER = """
set -eu
root=$1 volume=$2
shift 2
mount --bind "$root" "$root"
mount --bind "$volume" "$root/srv/www"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
ip link set lo up
cd "$root"
exec env -i PATH=$PATH chroot "$@"
"""
STEP = """
mount -t proc proc "$1/proc"
mount --bind "$(readlink -f /etc/resolv.conf)" "$1/etc/resolv.conf"
exec env -i DEBIAN_FRONTEND=noninteractive PATH=$PATH chroot "$1" /bin/sh -c "$2"
"""

Result = TypeVar("Result")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Containerfile: each with its argument, on one line."""
    lines = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", "").splitlines()
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def arguments(text: str) -> list[str]:
    """A command: a JSON array, or else a line for the shell."""
    return list(json.loads(text)) if text.startswith("[") else ["/bin/sh", "-c", text]


def is_ignored(path: str, patterns: Sequence[str]) -> bool:
    """Whether a .dockerignore keeps the file out: the last pattern that matches it, or a folder above it, decides."""
    names = [path, *(str(parent) for parent in Path(path).parents if parent.name)]
    ignored = False
    for pattern in patterns:
        if any(fnmatch(name, pattern.lstrip("!")) or fnmatch(f"/{name}", pattern.lstrip("!")) for name in names):
            ignored = not pattern.startswith("!")
    return ignored


class Image:
    """Its root directory, and what the instructions say of how it runs."""

    def __init__(self, root: Path, text: str) -> None:
        need_root("make a root directory for others")
        for command in ("chroot", "debootstrap", "ip", "mount", "nsenter", "unshare"):
            need(command)
        root.chmod(0o755)
        self.root = root
        self.settings: dict[str, str] = {}  # by instruction, the last of each
        for name, argument in instructions(text):
            self.settings[name] = argument
            if name == "FROM":
                self._make_base(argument)
            elif name == "RUN":
                run_apart(STEP, self.root, argument)
            elif name == "COPY":
                self._copy(*argument.split())

    def _make_base(self, name: str) -> None:
        match = BASE.fullmatch(name)
        assert match, f"no way to make {name}"
        done = subprocess.run(
            [need("debootstrap"), "--variant=minbase", match[1], self.root, MIRROR], capture_output=True, text=True
        )
        if done.returncode:
            unable(f"debootstrap: {done.stdout[-2000:]}{done.stderr}")

    def _copy(self, source: str, target: str) -> None:
        """A file, or the content of a folder; less what .dockerignore keeps out."""
        patterns = (ROOT / ".dockerignore").read_text().split()
        copied = [name for name in tracked_files() if f"{name}/".startswith(f"{source}/") and not is_ignored(name, patterns)]
        assert copied, f"{source} is not in the build context"
        for name in copied:
            path = self.root / target.lstrip("/") / os.path.relpath(name, source)
            path = Path(os.path.normpath(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path)


def run_apart(script: str, *values: str | Path) -> None:
    """Run a script of sh in mount and process namespaces of its own."""
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        *values,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH})
    assert done.returncode == 0, f"{values[-1]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


class Container:
    """A process of an image, as process 1, with a read-only root directory, a folder to serve and a network of its own.

    words: in place of those of CMD.
    """

    def __init__(self, image: Image, volume: Path, *words: str) -> None:
        self._image = image
        said = image.settings
        command = [*arguments(said["ENTRYPOINT"]), *(words or arguments(said["CMD"]))]
        apart = [f"--{name}" for name in ("mount", "pid", "net", "ipc", "uts", "fork", "kill-child", "propagation=private")]
        user = f"--userspec={said['USER']}"
        self.process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig=KILL",
                "unshare",
                *apart,
                "sh",
                "-c",
                ENTER,
                "sh",
                image.root,
                volume,
                user,
                ".",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH},
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its first process, as seen from here; 0 before there is one."""
        return next(iter(children(self.process.pid)), 0)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Another process in it, by the same user, as a container engine starts it."""
        uid, gid = self._image.settings["USER"].split(":")
        enter = [
            "nsenter",
            f"--target={self.pid}",
            *(f"--{name}" for name in ("mount", "uts", "ipc", "net", "pid", "root", "wd")),
        ]
        return subprocess.run(
            [*enter, f"--setuid={uid}", f"--setgid={gid}", *command], capture_output=True, text=True, env={"PATH": PATH}
        )

    def visit(self, function: Callable[[], Result]) -> Result:
        """What `function` gives when called in its network."""
        with ThreadPoolExecutor(1, initializer=enter_network, initargs=(self.pid,)) as thread:
            return thread.submit(function).result()

    def stop(self) -> tuple[int, str]:
        """Send the signal that stops it; its exit status, and all that it has said."""
        os.kill(self.pid, signal.Signals[self._image.settings["STOPSIGNAL"]])
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.returncode is None:
            first = self.pid
            os.kill(first or self.process.pid, signal.SIGKILL)  # the kernel ends those in its namespace
            self.process.communicate()
