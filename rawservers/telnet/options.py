"""Option negotiation: RFC 854 by the Q method of RFC 1143, as a table.

Each option is negotiated for both ends: `him` is the peer (it sends WILL and WONT, we send DO and DONT), `us` is this end (the
verbs swapped). The two are symmetric, so one table serves both: "yes" stands for WILL or DO, "no" for WONT or DONT. The state
and the queue bit of RFC 1143 are one of six states here:

    NO, YES                agreed
    WANTNO, WANTYES        a request of ours is not answered yet
    WANTNO_OPPOSITE, ...   the same, and the opposite is to be requested after the answer

The table prevents endless negotiation: a request for the present state is not answered, a refusal is never confirmed, and
nothing is requested while an answer is due. The rows for a peer that breaks the rules ("DONT answered by WILL") only choose the
next state.
"""

from __future__ import annotations

from enum import Enum, auto

from rawservers.telnet.nvt import DO, DONT, IAC, WILL, WONT

BINARY, ECHO, SGA, TIMING_MARK, LOGOUT = 0, 1, 3, 6, 18  # RFC 856, 857, 858, 860, 727
CHARACTER_MODE = {ECHO: SGA, SGA: ECHO}  # the options that make it up, each with the other
REQUESTS = (TIMING_MARK, LOGOUT)  # have no state: each DO is granted by a WILL


class State(Enum):
    """State of one option at one end (RFC 1143 §7)."""

    NO = auto()
    YES = auto()
    WANTNO = auto()
    WANTNO_OPPOSITE = auto()
    WANTYES = auto()
    WANTYES_OPPOSITE = auto()


class Event(Enum):
    """What changes the state of an option."""

    ACCEPTABLE = auto()  # the peer sends yes for an option that we agree to
    UNACCEPTABLE = auto()  # the peer sends yes for another option
    REFUSAL = auto()  # the peer sends no
    ENABLE = auto()  # we want the option on
    DISABLE = auto()  # we want it off


NO, YES, WANTNO, WANTNO_OPPOSITE, WANTYES, WANTYES_OPPOSITE = State

# (state, event) -> (next state, what to send: True for yes, False for no, None for nothing). RFC 1143 §7.
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
    """All options of one end. Only those in a state other than NO take memory: the few that are acceptable or were enabled.

    yes, no: the verbs to send (DO and DONT for the peer's options, WILL and WONT for ours); acceptable: options we agree to
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
        """The reply to the peer's yes or no for `option` (0 to 255): three bytes or none."""
        if not yes:
            return self._step(Event.REFUSAL, option)
        unacceptable = option not in self._acceptable and self[option] is NO
        return self._step(Event.UNACCEPTABLE if unacceptable else Event.ACCEPTABLE, option)

    def enable(self, option: int) -> bytes:
        """The request to turn `option` on: three bytes or none."""
        return self._step(Event.ENABLE, option)

    def disable(self, option: int) -> bytes:
        """The request to turn `option` off: three bytes or none."""
        return self._step(Event.DISABLE, option)

    def _step(self, event: Event, option: int) -> bytes:
        state, yes = TABLE[self[option], event]
        if state is not NO:
            self._states[option] = state
        else:
            self._states.pop(option, None)
        return b"" if yes is None else bytes((IAC, self._yes if yes else self._no, option))


class Options:
    """The options of both ends, all off at first.

    us:  this end. BINARY, ECHO and SGA are acceptable. TIMING-MARK and LOGOUT are REQUESTS, without a state
    him: the peer. BINARY and SGA are acceptable
    """

    __slots__ = ("_echo_for_password", "him", "us")

    OURS = frozenset({BINARY, ECHO, SGA})
    HIS = frozenset({BINARY, SGA})

    def __init__(self) -> None:
        self.us = Side(WILL, WONT, self.OURS)
        self.him = Side(DO, DONT, self.HIS)
        self._echo_for_password = False  # our ECHO is on only while a password is typed

    def receive(self, verb: int, option: int) -> bytes:
        """The reply to the peer's `verb` (DO, DONT, WILL or WONT) for `option`: three bytes or none."""
        side = self.us if verb in (DO, DONT) else self.him
        return side.receive(verb in (DO, WILL), option)

    def complete_character_mode(self, option: int) -> bytes:
        """The offer of the other option of CHARACTER_MODE, once the peer has requested `option`: three bytes or none."""
        self._echo_for_password = False
        return self.us.enable(CHARACTER_MODE[option])

    def claim_echo(self) -> bytes:
        """The request to turn our ECHO on while a password is typed: three bytes or none."""
        self._echo_for_password = self.us[ECHO] not in (YES, WANTYES)
        return self.us.enable(ECHO)

    def release_echo(self) -> bytes:
        """The request to turn our ECHO off again, if only `claim_echo` had turned it on: three bytes or none."""
        if not self._echo_for_password:
            return b""
        self._echo_for_password = False
        return self.us.disable(ECHO)
