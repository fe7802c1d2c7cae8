"""Checks of values against the system: users, directories, log files. Each raises ValueError with a message.

They are made for options as well, and load nothing that a start without a configuration file does not need.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rawservers.core.errors import os_error_text
from rawservers.settings import TLSConfig


def check_user(text: str) -> str:
    """NAME or NAME:GROUP, as given. This user, and this group, must exist."""
    import grp  # here, since most starts do not need them
    import pwd

    for kind, name, find in zip(("user", "group"), text.split(":", 1), (pwd.getpwnam, grp.getgrnam), strict=False):
        try:
            find(name)
        except KeyError:
            raise ValueError(f"unknown {kind} {name!r}") from None
    return text


def check_group(name: str) -> None:
    """A group must exist."""
    import grp

    try:
        grp.getgrnam(name)
    except KeyError:
        raise ValueError(f"unknown group {name!r}") from None


def check_directory(path: str) -> None:
    """A directory must exist and be readable: else every request would fail."""
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ValueError(f"cannot serve {path}: {os_error_text(error)}") from error


def check_document_root(path: str) -> bool:
    """A directory must exist and be readable, or else a regular file: whether it is one. Hidden names are not served."""
    if not os.path.isfile(path):
        check_directory(path)
        return False
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise ValueError(f"cannot serve {path}: {os_error_text(error)}") from error
    if os.path.basename(path).startswith("."):
        raise ValueError(f"cannot serve {path}: its name begins with a dot")
    return True


def check_certificates(tls: Sequence[TLSConfig]) -> None:
    """Certificates and their keys must be readable, and fit."""
    from rawservers.core.certificates import Certificate, load_context  # here, since it loads OpenSSL

    if tls:
        load_context([Certificate(each.certificate, each.key, each.hosts) for each in tls])


def check_log_file(path: str) -> None:
    """A file need not exist, but its directory must."""
    if os.path.isdir(path):
        raise ValueError(f"cannot write to {path}: is a directory")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"cannot write to {path}: no such directory")
