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

from enum import Enum

from rawservers.telnet.nvt import DO, DONT, IAC, WILL, WONT

BINARY, ECHO, SGA, TIMING_MARK, LOGOUT = 0, 1, 3, 6, 18  # RFC 856, 857, 858, 860, 727
CHARACTER_MODE = {ECHO: SGA, SGA: ECHO}  # the options that make it up, each with the other
REQUESTS = (TIMING_MARK, LOGOUT)  # have no state: each DO is granted by a WILL

# State of one option at one end (RFC 1143 §7).
State = Enum("State", "NO YES WANTNO WANTNO_OPPOSITE WANTYES WANTYES_OPPOSITE")
NO, YES, WANTNO, WANTNO_OPPOSITE, WANTYES, WANTYES_OPPOSITE = State
ACCEPT, REFUSE, ENABLE, DISABLE = range(4)  # events: the peer sends yes, the peer sends no, we want it on, we want it off

# For each state, by event: the next state, and what to send (True for yes, False for no, None for nothing). RFC 1143 §7.
TABLE: dict[State, tuple[tuple[State, bool | None], ...]] = {
    # state           ACCEPT           REFUSE           ENABLE                   DISABLE
    NO:               ((YES, True),    (NO, None),      (WANTYES, True),         (NO, None)),
    YES:              ((YES, None),    (NO, False),     (YES, None),             (WANTNO, False)),
    WANTNO:           ((NO, None),     (NO, None),      (WANTNO_OPPOSITE, None), (WANTNO, None)),  # ACCEPT is an error
    WANTNO_OPPOSITE:  ((YES, None),    (WANTYES, True), (WANTNO_OPPOSITE, None), (WANTNO, None)),  # the same
    WANTYES:          ((YES, None),    (NO, None),      (WANTYES, None),         (WANTYES_OPPOSITE, None)),
    WANTYES_OPPOSITE: ((WANTNO, False), (NO, None),     (WANTYES, None),         (WANTYES_OPPOSITE, None)),
}  # fmt: skip


class Side:
    """All options of one end. Those that were never on take no memory.

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
        if yes and option not in self._acceptable and self[option] is NO:
            return bytes((IAC, self._no, option))
        return self.handle(ACCEPT if yes else REFUSE, option)

    def handle(self, event: int, option: int) -> bytes:
        """Change the state of `option`. Returns what to send: three bytes or none."""
        before = self[option]
        state, yes = TABLE[before][event]
        if state is not before:
            self._states[option] = state
        return b"" if yes is None else bytes((IAC, self._yes if yes else self._no, option))


class Options:
    """The options of both ends, all off at first.

    us:  this end. BINARY, ECHO and SGA are acceptable. TIMING-MARK and LOGOUT are REQUESTS, without a state
    him: the peer. BINARY and SGA are acceptable
    """

    __slots__ = ("_echo_for_password", "him", "us")

    def __init__(self) -> None:
        self.us = Side(WILL, WONT, frozenset({BINARY, ECHO, SGA}))
        self.him = Side(DO, DONT, frozenset({BINARY, SGA}))
        self._echo_for_password = False  # our ECHO is on only while a password is typed

    def receive(self, verb: int, option: int) -> bytes:
        """The reply to the peer's `verb` (DO, DONT, WILL or WONT) for `option`: three bytes, six or none.

        Six where the peer requests one option of CHARACTER_MODE: the other one is offered with it.
        """
        if verb in (WILL, WONT):
            return self.him.receive(verb == WILL, option)
        if verb == DO and option in REQUESTS:
            return bytes((IAC, WILL, option))
        reply = self.us.receive(verb == DO, option)
        if reply and option in CHARACTER_MODE and self.us[option] is YES:
            self._echo_for_password = False
            reply += self.us.handle(ENABLE, CHARACTER_MODE[option])
        return reply

    def hide_input(self, hidden: bool) -> bytes:
        """What turns our ECHO on while a password is typed, and off again if it was off before: three bytes or none."""
        if hidden:
            self._echo_for_password = self.us[ECHO] not in (YES, WANTYES)
            return self.us.handle(ENABLE, ECHO)
        return self.us.handle(DISABLE, ECHO) if self._echo_for_password else b""
