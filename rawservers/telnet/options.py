"""Who does what: the option negotiation of RFC 854 by the Q method of RFC 1143, as a table.

For each option both ends can do something: `him` is what the peer does (it says WILL and WONT, we say DO and DONT),
`us` what we do (the words swapped). The two mirror each other, so one table serves both, in which "yes" stands for
WILL or DO and "no" for WONT or DONT. What RFC 1143 calls a state and a queue bit is one of six states here:

    NO, YES                agreed
    WANTNO, WANTYES        we have asked, and wait for the answer
    WANTNO_OPPOSITE, ...   as above, and have changed our mind since: once answered, we ask for the opposite

Out of the table come what keeps two ends from talking for ever: a request for what is already so is not answered, a
refusal is never confirmed, and nothing is asked again while an answer is due. The rows in which the peer breaks the
rules ("DONT answered by WILL") give it no more than a state to be in.
"""

from __future__ import annotations

from enum import Enum, auto

from rawservers.telnet.nvt import DO, DONT, IAC, WILL, WONT

BINARY, ECHO, SGA, TIMING_MARK, LOGOUT = 0, 1, 3, 6, 18  # RFC 856, 857, 858, 860, 727
CHARACTER_MODE = {ECHO: SGA, SGA: ECHO}  # the options that make it up, each with the other
REQUESTS = (TIMING_MARK, LOGOUT)  # have no state: each DO is granted by a WILL


class State(Enum):
    NO = auto()
    YES = auto()
    WANTNO = auto()
    WANTNO_OPPOSITE = auto()
    WANTYES = auto()
    WANTYES_OPPOSITE = auto()


class Event(Enum):
    ACCEPTABLE = auto()  # the peer says yes to an option that we are glad to have
    UNACCEPTABLE = auto()  # the peer says yes to one that we will not have
    REFUSAL = auto()  # the peer says no
    ENABLE = auto()  # we want it on
    DISABLE = auto()  # we want it off


NO, YES, WANTNO, WANTNO_OPPOSITE, WANTYES, WANTYES_OPPOSITE = State

# (state, event) -> (state, what we say: True for yes, False for no, None for nothing). RFC 1143 §7.
TABLE: dict[tuple[State, Event], tuple[State, bool | None]] = {
    (NO, Event.ACCEPTABLE): (YES, True),
    (YES, Event.ACCEPTABLE): (YES, None),
    (WANTNO, Event.ACCEPTABLE): (NO, None),  # error: DONT answered by WILL
    (WANTNO_OPPOSITE, Event.ACCEPTABLE): (YES, None),  # error: DONT answered by WILL
    (WANTYES, Event.ACCEPTABLE): (YES, None),
    (WANTYES_OPPOSITE, Event.ACCEPTABLE): (WANTNO, False),
    (NO, Event.UNACCEPTABLE): (NO, False),
    (NO, Event.REFUSAL): (NO, None),
    (YES, Event.REFUSAL): (NO, False),
    (WANTNO, Event.REFUSAL): (NO, None),
    (WANTNO_OPPOSITE, Event.REFUSAL): (WANTYES, True),
    (WANTYES, Event.REFUSAL): (NO, None),
    (WANTYES_OPPOSITE, Event.REFUSAL): (NO, None),
    (NO, Event.ENABLE): (WANTYES, True),
    (YES, Event.ENABLE): (YES, None),
    (WANTNO, Event.ENABLE): (WANTNO_OPPOSITE, None),
    (WANTNO_OPPOSITE, Event.ENABLE): (WANTNO_OPPOSITE, None),
    (WANTYES, Event.ENABLE): (WANTYES, None),
    (WANTYES_OPPOSITE, Event.ENABLE): (WANTYES, None),
    (NO, Event.DISABLE): (NO, None),
    (YES, Event.DISABLE): (WANTNO, False),
    (WANTNO, Event.DISABLE): (WANTNO, None),
    (WANTNO_OPPOSITE, Event.DISABLE): (WANTNO, None),
    (WANTYES, Event.DISABLE): (WANTYES_OPPOSITE, None),
    (WANTYES_OPPOSITE, Event.DISABLE): (WANTYES_OPPOSITE, None),
}


class Side:
    """Every option of one side. Only those that are not off take memory: the few that are welcome or were enabled.

    yes, no: what we say (DO and DONT of the peer's options, WILL and WONT of ours); acceptable: options we agree to.
    """

    __slots__ = ("_acceptable", "_no", "_states", "_yes")

    def __init__(self, yes: int, no: int, acceptable: frozenset[int]) -> None:
        self._yes = yes
        self._no = no
        self._acceptable = acceptable
        self._states: dict[int, State] = {}

    def __getitem__(self, option: int) -> State:
        return self._states.get(option, NO)

    def receive(self, yes: bool, option: int) -> bytes:
        """The peer said yes or no to `option` (0 to 255): what to answer, three bytes or none."""
        if not yes:
            return self._step(Event.REFUSAL, option)
        unwelcome = option not in self._acceptable and self[option] is NO
        return self._step(Event.UNACCEPTABLE if unwelcome else Event.ACCEPTABLE, option)

    def enable(self, option: int) -> bytes:
        """We want `option` on: what to say, three bytes or none."""
        return self._step(Event.ENABLE, option)

    def disable(self, option: int) -> bytes:
        """We want `option` off: what to say, three bytes or none."""
        return self._step(Event.DISABLE, option)

    def _step(self, event: Event, option: int) -> bytes:
        state, yes = TABLE[self[option], event]
        if state is not NO:
            self._states[option] = state
        else:
            self._states.pop(option, None)
        return b"" if yes is None else bytes((IAC, self._yes if yes else self._no, option))


class Options:
    """The options of both ends, all off to begin with.

    us:  what we do. Welcome are BINARY, ECHO and SGA. TIMING-MARK and LOGOUT are requests, not states: see session.py
    him: what the peer does. Welcome are BINARY and SGA
    """

    __slots__ = ("_echo_for_password", "him", "us")

    OURS = frozenset({BINARY, ECHO, SGA})
    HIS = frozenset({BINARY, SGA})

    def __init__(self) -> None:
        self.us = Side(WILL, WONT, self.OURS)
        self.him = Side(DO, DONT, self.HIS)
        self._echo_for_password = False  # our ECHO is on only while a password is typed

    def receive(self, verb: int, option: int) -> bytes:
        """The peer sent `verb` (DO, DONT, WILL or WONT) for `option`: what to answer, three bytes or none."""
        side = self.us if verb in (DO, DONT) else self.him
        return side.receive(verb in (DO, WILL), option)

    def complete_character_mode(self, option: int) -> bytes:
        """Offer the other option of CHARACTER_MODE, since the peer has asked for `option`: three bytes to send, or none."""
        self._echo_for_password = False
        return self.us.enable(CHARACTER_MODE[option])

    def claim_echo(self) -> bytes:
        """Turn our ECHO on while a password is typed: three bytes to send, or none."""
        self._echo_for_password = self.us[ECHO] not in (YES, WANTYES)
        return self.us.enable(ECHO)

    def release_echo(self) -> bytes:
        """Turn our ECHO off again if only `claim_echo` had turned it on: three bytes to send, or none."""
        if not self._echo_for_password:
            return b""
        self._echo_for_password = False
        return self.us.disable(ECHO)
