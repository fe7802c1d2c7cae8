"""A network device that is none, for tests of scripts that configure devices: a login, a prompt, two commands.

python3 -m examples.device 2323     # then: telnet 127.0.0.1 2323, as admin with the password secret
"""

import signal
import sys
from contextlib import suppress

from rawservers.telnet.service import Dialogue, Hidden, LineClient
from rawservers.testing import TelnetServer

ANSWERS = {
    b"show version": b"RouterOS 7.2, uptime 3 days",
    b"show interfaces": b"eth0 up\neth1 down",
    b"terminal length 0": b"",
    b"terminal width 511": b"",
}


def log_in(client: LineClient) -> Dialogue:
    for _ in range(3):
        name = yield b"Username: "
        password = yield Hidden(b"Password: ")
        if (name, password) == (b"admin", b"secret"):
            return None
        client.send_line(b"% Login invalid")
    return b"% Too many attempts"


def device(client: LineClient) -> Dialogue:
    if refusal := (yield from log_in(client)):
        return refusal
    while (line := (yield b"r1#")) != b"exit":
        if answer := ANSWERS.get(line, b"% Invalid command: " + line):
            client.send_line(answer)
    return None


if __name__ == "__main__":
    with TelnetServer(port=int(sys.argv[1])) as server:
        server.service, server.echo = device, True  # devices send lines back, and netmiko waits for that
        host, port = server.address
        print(f"telnet listening on {host}:{port}", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            signal.pause()
