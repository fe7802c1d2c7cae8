"""Every setting once: its name, its default, what it means and why it is so, next to what other servers do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WELCOME = Path(__file__).parent / "welcome"


@dataclass(frozen=True, slots=True)
class Config:
    """What the servers are to do. Times are in seconds; 0 means no limit."""

    root: str | None = None
    """The folder to serve; without it, the bundled welcome page."""

    listen: tuple[tuple[str, str], ...] = (("http", "127.0.0.1:8080"), ("telnet", "127.0.0.1:2323"))
    """Services, by their names in `services.py`, and the addresses to give them at, as `Endpoint.parse` takes them."""

    access_log: str = "-"
    """A file to append to, "-" for standard output, or "off"."""

    head_time: float = 10
    """For a whole request head, however its bytes trickle in. nginx 60, Apache 20 to 40; a head is one packet or two."""

    body_time: float = 60
    """For a whole request body, from its start. nginx 60 between two reads."""

    idle_time: float = 75
    """For the next request on a kept connection. nginx 75; browsers give up by themselves after one to five minutes."""

    telnet_idle_time: float = 600
    """For the next word on a Telnet connection. A person thinks longer than a browser; OpenSSH's servers often say 600."""

    send_time: float = 30
    """For the next 64 KiB of output, or all the rest of it, to be taken by the peer. nginx 60, between two writes."""

    linger_time: float = 2
    """For the peer to hear a refusal out and hang up. nginx 5 between two reads, 30 in all; one round trip is enough."""

    drain_time: float = 10
    """For answers under way to leave after the order to stop. systemd kills after 90."""

    requests: int = 0
    """Answers per HTTP connection. nginx 1000, to give memory back; here nothing of a connection grows with its requests."""

    longest_line: int = 4096
    """Bytes of a Telnet line. Terminals in line mode stop at 4095 (Linux, N_TTY)."""

    @property
    def folder(self) -> str:
        """The folder that is served."""
        return str(WELCOME) if self.root is None else self.root
