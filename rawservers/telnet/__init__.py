"""Telnet: line services over the protocol of RFC 854 and its extensions.

All of it is pure: bytes in, bytes out, without a socket or a clock. Each file uses only those above it:

    nvt.py       bytes -> text and commands (RFC 854, 855)
    options.py   option negotiation: the Q method of RFC 1143 as a table
    editor.py    the line being typed, and what the screen shows of it
    client.py    output to the client, with the options and the screen
    service.py   line services: what the author of one needs
    session.py   the session: input, control functions, and running a service
    echo.py      the default service, RFC 862, with fast paths
"""
