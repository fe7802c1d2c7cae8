"""Option negotiation: the whole table of RFC 1143 §7, written out anew from its words."""

from __future__ import annotations

import itertools
import random

import pytest

from rawservers.telnet.nvt import DO, DONT, IAC, WILL, WONT
from rawservers.telnet.options import (
    ACCEPT,
    BINARY,
    CHARACTER_MODE,
    DISABLE,
    ECHO,
    ENABLE,
    REFUSE,
    REQUESTS,
    SGA,
    TABLE,
    Options,
    Side,
    State,
)

# For each state, what RFC 1143 §7 says of "him", and what we then say. Columns: WILL that we agree to, WILL that we
# do not agree to, WONT, "decide to enable", "decide to disable". Only in NO does
# the RFC ask whether we agree.
TEXT = """
state            agree                no                   WONT                enable               disable
NO               YES DO               NO DONT              NO -                WANTYES DO           NO -
YES              YES -                .                    NO DONT             YES -                WANTNO DONT
WANTNO           NO -                 .                    NO -                WANTNO_OPPOSITE -    WANTNO -
WANTNO_OPPOSITE  YES -                .                    WANTYES DO          WANTNO_OPPOSITE -    WANTNO -
WANTYES          YES -                .                    NO -                WANTYES -            WANTYES_OPPOSITE -
WANTYES_OPPOSITE WANTNO DONT          .                    NO -                WANTYES -            WANTYES_OPPOSITE -
"""
STEPS = ("yes", "unwelcome", "no", "enable", "disable")
EVENTS = {"yes": ACCEPT, "no": REFUSE, "enable": ENABLE, "disable": DISABLE}  # those of the table
SAYS = {"DO": True, "DONT": False, "-": None}


def rows() -> dict[tuple[State, str], tuple[State, bool | None]]:
    table = {}
    for line in TEXT.strip().splitlines()[1:]:
        state, *cells = line.replace(" . ", " . . ").split()
        for step, to, says in zip(STEPS, cells[::2], cells[1::2], strict=True):
            if to != ".":
                table[State[state], step] = (State[to], SAYS[says])
    return table


# How to bring a side of an option to each state.
PATHS = {
    State.NO: "",
    State.YES: "enable yes",
    State.WANTNO: "enable yes disable",
    State.WANTNO_OPPOSITE: "enable yes disable enable",
    State.WANTYES: "enable",
    State.WANTYES_OPPOSITE: "enable disable",
}


def take(side: Side, step: str, option: int = ECHO) -> bytes:
    if step in ("enable", "disable"):
        return side.handle(EVENTS[step], option)
    return side.receive(step != "no", option)


def bring(side: Side, state: State) -> None:
    for step in PATHS[state].split():
        take(side, step)
    assert side[ECHO] is state


def test_the_table_is_rfc_1143s() -> None:
    table = {(state, step): TABLE[state][event] for state in State for step, event in EVENTS.items()}
    assert {row: cell for row, cell in rows().items() if row[1] != "unwelcome"} == table
    assert {len(row) for row in TABLE.values()} == {len(EVENTS)}


@pytest.mark.parametrize(("state", "step"), rows())
@pytest.mark.parametrize(("yes", "no"), [(DO, DONT), (WILL, WONT)])
def test_every_row_on_both_sides(state: State, step: str, yes: int, no: int) -> None:
    side = Side(yes, no, frozenset() if step == "unwelcome" else frozenset({ECHO}))
    bring(side, state)
    after, says = rows()[state, step]
    said = take(side, step)
    assert side[ECHO] is after
    assert said == (b"" if says is None else bytes((IAC, yes if says else no, ECHO)))


def test_what_is_not_welcome_is_refused_each_time() -> None:
    side = Side(DO, DONT, frozenset())
    assert [side.receive(True, ECHO) for _ in range(3)] == [bytes((IAC, DONT, ECHO))] * 3


def test_an_option_that_we_asked_for_is_ours_though_it_is_not_welcome_unasked() -> None:
    side = Side(DO, DONT, frozenset())
    side.handle(ENABLE, ECHO)
    assert side.receive(True, ECHO) == b""
    assert side[ECHO] is State.YES


@pytest.mark.parametrize("option", range(256))
def test_only_a_few_options_are_welcome(option: int) -> None:
    options = Options()
    ours = option in (BINARY, ECHO, SGA)
    his = option in (BINARY, SGA)
    other = bytes((IAC, WILL, CHARACTER_MODE[option])) if option in CHARACTER_MODE else b""
    assert options.receive(DO, option) == bytes((IAC, WILL if ours or option in REQUESTS else WONT, option)) + other
    assert options.receive(WILL, option) == bytes((IAC, DO if his else DONT, option))
    assert options.receive(DONT, option) == (bytes((IAC, WONT, option)) if ours else b"")
    assert options.receive(WONT, option) == (bytes((IAC, DONT, option)) if his else b"")
    assert options.us[option] is options.him[option] is State.NO


@pytest.mark.parametrize("option", REQUESTS)
def test_requests_have_no_state(option: int) -> None:
    options = Options()
    assert [options.receive(DO, option) for _ in range(2)] == [bytes((IAC, WILL, option))] * 2
    assert options.us[option] is State.NO


def test_options_do_not_touch_each_other() -> None:
    options = Options()
    options.receive(DO, ECHO)
    options.receive(WILL, BINARY)
    assert (options.us[ECHO], options.him[ECHO], options.us[BINARY]) == (State.YES, State.NO, State.NO)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_two_ends_fall_silent(length: int) -> None:
    """Two sides by this table, whatever each wants and when, come to agree and to say no more."""
    for wishes in itertools.product(("enable", "disable", ""), repeat=length):
        us, him = Side(WILL, WONT, frozenset({ECHO})), Side(DO, DONT, frozenset({ECHO}))
        lines: list[tuple[Side, list[bytes]]] = [(him, []), (us, [])]  # who hears, what is under way
        choose = random.Random(repr(wishes))
        for wish in wishes:
            side = choose.choice((us, him))
            say = lines[0][1] if side is us else lines[1][1]
            say.append(take(side, wish) if wish else b"")
            if choose.random() < 0.5:
                deliver(lines, choose)
        deliver(lines, choose, until_silent=True)
        assert us[ECHO] is him[ECHO]
        assert us[ECHO] in (State.YES, State.NO)


def deliver(lines: list[tuple[Side, list[bytes]]], choose: random.Random, until_silent: bool = False) -> None:
    for _ in range(100 if until_silent else 1):
        waiting = [at for at, (_, messages) in enumerate(lines) if messages]
        if not waiting:
            return
        at = choose.choice(waiting)
        hearer, messages = lines[at]
        if message := messages.pop(0):
            lines[1 - at][1].append(hearer.receive(message[1] in (DO, WILL), message[2]))
    assert not until_silent, "they talk for ever"
