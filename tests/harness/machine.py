"""A machine with a real systemd, booted in namespaces of its own in less than a second: nothing is downloaded.

Its disk is an overlay of this machine's own, kept in memory; its network is a loopback interface. It sees neither this
machine's processes nor what is enabled here, and leaves nothing behind: when its first process is killed, the kernel ends the
others and takes the mounts away. It wants root, cgroup2 and Debian's systemd.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.harness.needs import need, need_root, unable
from tests.harness.processes import children
from tests.harness.waiting import DEADLINE, until

SYSTEMD = "/lib/systemd/systemd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What has no business here: it would touch the hardware, the host's kernel settings or the network, or wait for a person.
MASKED = (
    "dbus.service dbus.socket dev-hugepages.mount dev-mqueue.mount getty.target kmod-static-nodes.service"
    " proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount sys-fs-fuse-connections.mount sys-kernel-config.mount"
    " sys-kernel-debug.mount sys-kernel-tracing.mount systemd-ask-password-console.path systemd-ask-password-wall.path"
    " systemd-binfmt.service systemd-boot-system-token.service systemd-firstboot.service systemd-hwdb-update.service"
    " systemd-journal-flush.service systemd-logind.service systemd-machine-id-commit.service systemd-modules-load.service"
    " systemd-networkd.service systemd-networkd.socket systemd-pcrphase-sysinit.service systemd-pcrphase.service"
    " systemd-pstore.service systemd-random-seed.service systemd-repart.service systemd-resolved.service systemd-sysctl.service"
    " systemd-sysusers.service systemd-timesyncd.service systemd-tmpfiles-clean.timer systemd-tmpfiles-setup-dev.service"
    " systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service"
    " systemd-update-done.service systemd-update-utmp.service"
)

# Run by sh with a cgroup, the script below, and the arguments of that. The cgroup is entered first: it is to be the root of
# the new namespace's.
START = """
echo $$ > "$1/cgroup.procs" || exit
shift
exec unshare --mount --pid --uts --ipc --cgroup --net --fork --kill-child --propagation private sh -c "$1" sh "$2" "$3"
"""

# Run by sh in the new namespaces, with an empty folder and the masked units as its arguments. /sys is read-only because that is
# how systemd knows a container: it leaves devices alone then, and the propagation of mounts to whoever has started it. Unless
# that is shared, nobody sees what it mounts for a service in another namespace: credentials.
BOOT = f"""
set -eu
base=$1 masked=$2
mount -t tmpfs -o mode=755 machine "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" machine "$base/root"
cd "$base/root"
mkdir -p proc sys dev run tmp old
mount -t proc proc proc
mount --bind -o ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "dev/${{node%:*}}" c 1 "${{node#*:}}"
done
mknod -m 666 dev/tty c 5 0
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
: > dev/console
mount --bind "/proc/self/fd/1" dev/console
cd etc/systemd/system
rm -rf -- *.wants *.requires
for unit in $masked; do
    ln -sf /dev/null "$unit"
done
printf '[Unit]\\nRequires=basic.target\\nAfter=basic.target\\nAllowIsolate=yes\\n' > machine.target
cd ../../..
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\nReadKMsg=no\\n' > etc/systemd/journald.conf.d/machine.conf
rm -rf etc/machine-id etc/fstab var/log/journal
od -An -N16 -tx1 /dev/urandom | tr -d ' ' > etc/machine-id
: > etc/fstab
echo machine > etc/hostname
ip link set lo up
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=test PATH={PATH} {SYSTEMD} --system --unit=machine.target < /dev/null
"""

Result = TypeVar("Result")


def cgroup_mount() -> Path:
    """Where cgroup2 is mounted: /sys/fs/cgroup, or beside the older kind."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    unable("no cgroup2 is mounted")


def sweep(cgroups: Path) -> None:
    """Remove what the machines of tests that were killed have left: an empty cgroup and a folder each."""
    for left in cgroups.glob("machine-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            remove_cgroups(left)
            shutil.rmtree(Path(tempfile.gettempdir(), left.name), ignore_errors=True)


def remove_cgroups(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        os.rmdir(folder)


def enter_network(pid: int) -> None:
    """Bring this thread into the network of process `pid`, for the rest of its life."""
    with open(f"/proc/{pid}/ns/net") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Machine:
    """From its boot to its end, as a context. pid: its first process, as seen from here; 0 before there is one."""

    def __enter__(self) -> Machine:
        need_root("boot a systemd")
        for command in (SYSTEMD, "ip", "journalctl", "mount", "nsenter", "setpriv", "systemctl", "unshare"):
            need(command)
        cgroups = cgroup_mount()
        sweep(cgroups)
        self._folder = Path(tempfile.mkdtemp(prefix=f"machine-{os.getpid()}-"))
        self._cgroup = cgroups / self._folder.name
        self._console = (self._folder / "console").open("wb")
        self._boot: subprocess.Popen[bytes] | None = None
        self.pid = 0
        try:
            self._begin()
            until(self._is_up, "the machine's boot")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        disk = self._folder / "disk"
        disk.mkdir()
        try:
            self._cgroup.mkdir()
        except OSError as error:
            unable(f"cannot make a cgroup: {error}")
        self._boot = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "sh", "-c", START, "sh", self._cgroup, BOOT, disk, MASKED],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
        )

    def _is_up(self) -> bool:
        assert self._boot
        if self._boot.poll() is not None:
            unable(f"cannot boot a machine here: {self.console()}")
        self.pid = next(iter(children(self._boot.pid)), 0)
        with contextlib.suppress(OSError):  # the end of the script, which the next look will find
            if self.pid and Path(f"/proc/{self.pid}/comm").read_text() == "systemd\n":
                return self._is_running()
        return False

    def _is_running(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).stdout in ("running\n", "degraded\n")

    def console(self) -> str:
        """What was said before there was a journal."""
        return (self._folder / "console").read_text(errors="replace")

    def __exit__(self, *failure: object) -> None:
        try:
            if self._boot:
                self._boot.kill()  # then the kernel kills the first process, and that one's end is everyone's
                self._boot.wait()
            if self._cgroup.exists():
                events = self._cgroup / "cgroup.events"
                until(lambda: "populated 0" in events.read_text(), "the end of the machine's processes")
                remove_cgroups(self._cgroup)
        finally:
            self._console.close()
            shutil.rmtree(self._folder)

    # Inside

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `command` in it, as root. With `check`, a failure is the test's, with all that was said."""
        enter = ("nsenter", f"--target={self.pid}", "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
        environment = ("env", "-i", f"PATH={PATH}")
        done = subprocess.run([*enter, *environment, *command], capture_output=True, text=True, timeout=DEADLINE)
        if check and done.returncode != 0:
            pytest.fail(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal('--lines=50')}")
        return done

    def systemctl(self, *arguments: str) -> str:
        """What it says, without the newline."""
        return self.run("systemctl", *arguments).stdout.rstrip("\n")

    def show(self, unit: str, name: str) -> str:
        """A unit's property."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def journal(self, *arguments: str) -> str:
        """The journal's messages, all or what journalctl's `arguments` choose."""
        return self.run("journalctl", "--quiet", "--no-pager", "--output=cat", *arguments, check=False).stdout

    def path(self, inside: str) -> Path:
        """A path of its disk, as seen from here. Not for what stands behind an absolute link."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def write(self, inside: str, text: str) -> None:
        """Put a file there, with the folders above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    # Its network

    def visit(self, function: Callable[[], Result]) -> Result:
        """What `function` gives when called in its network, by a thread for that alone. Sockets made there stay there."""
        with ThreadPoolExecutor(1, initializer=enter_network, initargs=(self.pid,)) as thread:
            return thread.submit(function).result()

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        return self.visit(lambda: socket.create_connection((host, port), timeout=DEADLINE))
