"""Users and their passwords, and the requests of those who have one."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import bcrypt

SECRETS = {"ada": "Zähler:1", "bob": "hunter2", "eve": "", "max": "x" * 72}  # passwords, by user


def hashed(password: str, cost: int = 4) -> str:
    """A hash as `htpasswd -B` makes it."""
    return "$2y" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()[3:]


def write_users(path: Path, *names: str, cost: int = 4) -> str:
    """A file of these users, that looks as if it had last been changed long ago to whoever does not look at its ctime."""
    path.write_text("".join(f"{name}:{hashed(SECRETS[name], cost)}\n" for name in names))
    os.utime(path, (784111777, 784111777))
    return str(path)


def basic(user: str, password: str | None = None) -> str:
    """The value of an Authorization field. password: None: the right one."""
    password = SECRETS[user] if password is None else password
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
