"""Certificates and keys: from their files to the TLS context of a listener (RFC 8446, RFC 5246).

The context is made before the workers are forked, with the privileges of the supervisor: the workers never read the key, and
all of them have the same keys for session tickets, so that a session of one is resumed by another.
"""

from __future__ import annotations

import _ssl
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rawservers.core.errors import os_error_text
from rawservers.core.regular_file import read_regular

# TLS 1.2 with forward secrecy and authenticated encryption only, as Mozilla's "intermediate" profile (without DHE). Those of
# TLS 1.3 are all of that kind.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

WARNING_TIME = 14 * 86400.0  # seconds before a certificate expires from which on that is told

KEY_HINT = " (if it is in another file, name that: --key, or key in the configuration file)"


class Certificate(NamedTuple):
    """Files in PEM: the certificate with its chain, the key ("": in the same file). hosts: names it is for, as in SNI, also
    "*.NAME"."""

    path: str
    key: str = ""
    hosts: Sequence[str] = ()


def load_context(certificates: Sequence[Certificate], protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """The context of a listener. The first certificate is also for all other names. protocols: for ALPN (RFC 7301).

    Raises ValueError, with the file and the reason.
    """
    contexts = [(certificate, _load(certificate, protocols)) for certificate in certificates]
    by_name = {host.lower(): context for certificate, context in contexts for host in certificate.hosts}
    first = contexts[0][1]

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = find(by_name, (name or "").lower()) or first

    if by_name:
        first.sni_callback = choose
        if not isinstance(sys.unraisablehook, UnraisableHook):
            sys.unraisablehook = UnraisableHook(sys.unraisablehook)
    return first


class UnraisableHook:
    """sys.unraisablehook without the error of a server name (SNI) that is not ASCII: any client may send one.

    Python decodes the name before the callback, and has no other place for the error. The handshake fails, like any other.
    """

    def __init__(self, former: Callable[[sys.UnraisableHookArgs], object]) -> None:
        self._former = former

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not (unraisable.exc_type is UnicodeDecodeError and isinstance(unraisable.object, bytes)):
            self._former(unraisable)


def find(contexts: Mapping[str, ssl.SSLContext], name: str) -> ssl.SSLContext | None:
    """The one for this host name: its own, or that of the wildcard in place of its first label (RFC 6125 §6.4.3).

    A final dot makes no difference.
    """
    name = name.removesuffix(".")
    return contexts.get(name) or contexts.get(f"*.{name.partition('.')[2]}")


def _load(certificate: Certificate, protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1  # for each handshake of TLS 1.3: connections are kept, and each has one for the next
    if protocols:
        context.set_alpn_protocols(list(protocols))
    check_pem(certificate.path, "CERTIFICATE", "certificate")
    key = certificate.key or certificate.path
    check_pem(key, "PRIVATE KEY", "private key", "" if certificate.key else KEY_HINT)

    def no_password() -> str:
        raise ValueError(f"{key}: the private key is encrypted; decrypt it: openssl pkey -in {key}")

    try:
        context.load_cert_chain(certificate.path, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key}: not the private key of the certificate {certificate.path}") from error
        raise ValueError(f"{broken(certificate.path, key)}: not valid: {error.reason or error}") from error
    return context


def check_pem(path: str, label: str, what: str, hint: str = "") -> None:
    """Raise ValueError unless the file is regular, can be read, and has this label in PEM (RFC 7468). hint: if not."""
    try:
        _, content = read_regular(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot read the {what}: {os_error_text(error)}") from error
    if f"{label}-----".encode() not in content or b"-----BEGIN " not in content:
        raise ValueError(f"{path}: no {what} in PEM format{hint}")


def broken(certificate: str, key: str) -> str:
    """Which of both files OpenSSL cannot read."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except ssl.SSLError:
        return certificate
    return key


def validity_warning(path: str, now: float) -> str:
    """What is to be told of the days on which the certificate in this file is valid, now or soon; "" for nothing."""
    decode = getattr(_ssl, "_test_decode_cert", None)  # not public: a later Python may be without
    if decode is None:
        return ""
    try:
        fields = decode(path)
    except (OSError, ValueError):  # it reads fewer formats than the server does
        return ""
    start, end = ssl.cert_time_to_seconds(fields["notBefore"]), ssl.cert_time_to_seconds(fields["notAfter"])
    what, when = "is not valid before", start
    if now >= start:
        if end >= now + WARNING_TIME:
            return ""
        what, when = "expires at" if now <= end else "has expired at", end
    return f"the certificate {what} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(when))} UTC"


def is_exposed(key: str) -> bool:
    """Whether any user of the system may read the file of a key."""
    return bool(os.stat(key).st_mode & 0o004)
