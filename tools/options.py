"""The options of the command line, as the manual page and the completions of shells need them."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Sequence
from typing import NamedTuple

from rawservers.cli import make_parser
from rawservers.services import DEFAULT_LISTENERS, SERVICES, TLS_ADDRESSES

# What the values of an option may be: processes are supervisors, by PID; servers are the same as pid:PID.
FILES, PROCESSES, SERVERS, USERS, WORDS = "files", "processes", "servers", "users", "words"

# By the name of the value in the help; a name that is missing here is an error. WORDS: no more than those below.
KINDS = {
    "ADDRESS": WORDS,
    "DIR|FILE": FILES,
    "FILE": FILES,
    "FORMAT": WORDS,
    "HOST": WORDS,
    "N": WORDS,
    "NAME[:GROUP]": USERS,
    "PID": PROCESSES,
    "PORT": WORDS,
    "[ADDRESS]": SERVERS,
}

# Values besides, by the name of the argument.
VALUES = {
    "access_log": ["-", "off"],
    "bind": ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"],
    "workers": ["auto"],
    "status": [SERVICES["status"].address],
}
VALUES |= {each.service: ["off", each.address] for each in DEFAULT_LISTENERS}
VALUES |= {name: ["off", address] for name, address in TLS_ADDRESSES.items()}


class Option(NamedTuple):
    """names: none for the argument that is no option; value: its name, "" if there is none, with brackets if optional."""

    names: Sequence[str]
    value: str
    kind: str
    words: Sequence[str]
    is_repeatable: bool
    help: str

    @property
    def is_value_optional(self) -> bool:
        return self.value.startswith("[")

    @property
    def value_name(self) -> str:
        return self.value[1:-1] if self.is_value_optional else self.value

    @property
    def brief(self) -> str:
        """The help without its explanations."""
        return re.split(r" \(|[:;] |, and exit", self.help)[0]


def options() -> list[Option]:
    """All of them, in the order of the help."""
    return [option(action) for action in make_parser()._actions]


def option(action: Action) -> Option:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    if action.nargs == "?" and action.option_strings:
        value = f"[{value}]"
    return Option(
        action.option_strings,
        value,
        KINDS[value] if value else WORDS,
        [*map(str, action.choices or ()), *VALUES.get(action.dest, ())],
        type(action).__name__ == "_AppendAction",
        action.help or "",
    )
