"""Telnet: a service that is spoken line by line, over RFC 854 and what grew around it.

Everything here is pure: bytes in, bytes out, without a socket or a clock. Read the files in the order in which a byte
meets them:

    nvt.py      bytes -> text and commands (RFC 854, 855)
    options.py  who does what: the Q method of RFC 1143 as a table
    editor.py   the line being typed, and what the screen shows of it
    session.py     the conversation: what comes back, and how a service is written
"""
