"""A certificate of no authority, for trying TLS out: made by the openssl command, since Python cannot sign."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from ipaddress import ip_address

from rawservers.daemon.startup import CannotStart
from rawservers.settings import TLSConfig

log = logging.getLogger("rawservers")

DAYS = 30  # that it is valid


@cache
def make_certificate(host: str = "") -> TLSConfig:
    """A new certificate for localhost and `host`, once in a process. Raises CannotStart.

    Its files are in a folder that only this user can read, and that is removed at the end of the process.
    """
    import subprocess  # here, since it is seldom used

    folder = tempfile.TemporaryDirectory(prefix="rawservers-tls-")
    FOLDERS.append(folder)
    certificate, key = os.path.join(folder.name, "certificate.pem"), os.path.join(folder.name, "key.pem")
    names = dict.fromkeys(("DNS:localhost", "IP:127.0.0.1", "IP:::1", alternative_name(host)))
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=rawservers"
    names_option = f"subjectAltName={','.join(filter(None, names))}"
    command = ["openssl", *request.split(), "-days", str(DAYS), "-addext", names_option, "-keyout", key, "-out", certificate]
    before = os.umask(0o077)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603, PLW1510
    except FileNotFoundError as error:
        raise CannotStart("--tls-self-signed needs the openssl command, which is not installed") from error
    finally:
        os.umask(before)
    if done.returncode:
        raise CannotStart(f"--tls-self-signed: openssl failed: {done.stderr.strip().splitlines()[-1:]}")
    log.info("the certificate is signed by no authority; for clients that are to trust it: %s", certificate)
    return TLSConfig(certificate, key)


FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when they are dropped


def alternative_name(host: str) -> str:
    """A host as written before a port, as a subjectAltName; "" for none."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return f"DNS:{host}" if host else ""
    return f"IP:{address}" if not address.is_unspecified else ""
