"""Two services besides the echo, to show that each is a screenful."""

from __future__ import annotations

import ast
import operator

from rawservers.telnet.service import Dialogue, Hidden, LineClient

ACCOUNTS = {b"ada": b"lovelace"}


def login(client: LineClient) -> Dialogue:
    """Three attempts at a name and a hidden password; then every line comes back until "logout"."""
    for _ in range(3):
        name = yield b"login: "
        password = yield Hidden(b"Password: ")
        if ACCOUNTS.get(name) == password:
            break
        client.send_line(b"Login incorrect")
    else:
        return b"Too many attempts"
    client.send_line(b"Welcome, " + name)
    while (line := (yield b"$ ")) != b"logout":
        client.send_line(line)
    return b"Goodbye"


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(line: bytes) -> bytes | None:
    """The value of sums of numbers in + - * / and brackets; an empty line has none."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.BinOp):
            return float(OPERATORS[type(node.op)](value(node.left), value(node.right)))
        assert isinstance(node, ast.Constant)
        return float(node.value)  # type: ignore[arg-type]

    if not line.strip():
        return None
    try:
        return b"%g" % value(ast.parse(line.strip(), mode="eval").body)
    except (ArithmeticError, AssertionError, KeyError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return b"?"
