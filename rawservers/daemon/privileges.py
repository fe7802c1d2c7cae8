"""User and group of the workers: root's privileges are dropped for good."""

from __future__ import annotations

import os
from typing import TypeAlias

Credentials: TypeAlias = "tuple[int, int, list[int]]"  # user id, group id and supplementary groups of a process


def look_up_user(user: str) -> Credentials | None:
    """The credentials of NAME or NAME:GROUP; None for "".

    NAME alone has all groups of that user. Raises ValueError for an unknown name, or if this process may not change its user.
    """
    if not user:
        return None
    import grp
    import pwd

    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwnam(name)
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    if os.geteuid() not in {0, entry.pw_uid}:
        raise ValueError("only root can change the user")
    return entry.pw_uid, gid, [gid] if group else os.getgrouplist(name, gid)


def look_up_owner(owner: str, group: str, credentials: Credentials | None) -> tuple[int, int]:
    """User id and group id for a file; -1 for an id that is not to be changed.

    credentials: of the workers, whose the file is by default. Raises ValueError for an unknown name.
    """
    uid, gid, _ = credentials or (-1, -1, [])
    if owner or group:
        import grp
        import pwd

        try:
            uid, gid = pwd.getpwnam(owner).pw_uid if owner else uid, -1 if owner else gid
            gid = grp.getgrnam(group).gr_gid if group else gid
        except KeyError as error:
            raise ValueError(error.args[0]) from error
    return uid, gid


def drop_privileges(credentials: Credentials | None) -> None:
    """Change user and groups of this process, real, effective and saved. No effect for None, or if this process is not root."""
    if credentials is None or os.geteuid() != 0:
        return
    uid, gid, groups = credentials
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
