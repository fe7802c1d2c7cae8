"""Giving up root's rights."""

from __future__ import annotations

import os
from typing import TypeAlias

from rawservers.daemon.startup import CannotStart

Identity: TypeAlias = "tuple[int, int, list[int]]"  # user, group, and further groups


def identity(user: str) -> Identity | None:
    """Who NAME or NAME:GROUP is; None for "". Raises CannotStart."""
    if not user:
        return None
    import grp
    import pwd

    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwnam(name)
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError as error:
        raise CannotStart(f"cannot become {user}: {error.args[0]}") from error
    if os.geteuid() not in {0, entry.pw_uid}:
        raise CannotStart(f"cannot become {user}: only root can become somebody else")
    return entry.pw_uid, gid, [gid] if group else os.getgrouplist(name, gid)


def become(who: Identity | None) -> None:
    """Give up root's rights for good."""
    if who is None or os.geteuid() != 0:
        return
    uid, gid, groups = who
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
