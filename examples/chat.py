"""A chat room: what one says goes to all others, above the line that they are typing.

python3 -m examples.chat 2323     # then, in several terminals: telnet 127.0.0.1 2323. /quit leaves
"""

import logging
import sys

from rawservers import Config, ListenConfig, serve
from rawservers.telnet.service import Dialogue, LineClient

CONTROLS = bytes(range(32)) + b"\x7f"  # of a terminal: nobody may move the cursor of others

names: dict[LineClient, bytes] = {}


def announce(text: bytes, speaker: LineClient) -> None:
    for client in names:
        if client is not speaker:
            client.push_line(text.translate(None, CONTROLS))


def chat(client: LineClient) -> Dialogue:
    name = (yield b"Your name? ").translate(None, CONTROLS)
    client.send_line(b"Here: " + b", ".join(names.values()))
    names[client] = name
    try:
        announce(b"* " + name + b" has come", client)
        while (line := (yield b"")) != b"/quit":
            announce(b"<" + name + b"> " + line, client)
        return b"Goodbye"
    finally:  # the connection may also be lost
        announce(b"* " + name + b" has gone", client)
        del names[client]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    serve(Config(listen=(ListenConfig("telnet", f"127.0.0.1:{sys.argv[1]}"),), telnet_service=chat))
