"""Certificates for trying TLS out, and for tests, in a folder that only this user can read, and that the process removes.

Python's standard library cannot sign: the openssl command does it, or the package trustme.
"""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from rawservers.core.errors import os_error_text
from rawservers.daemon.startup import CannotStart
from rawservers.settings import TLSConfig

if TYPE_CHECKING:
    from trustme import CA

log = logging.getLogger("rawservers")

DAYS = 30  # that it is valid


@cache
def make_certificate(host: str = "") -> TLSConfig:
    """A new certificate of no authority for localhost and `host`, once in a process for each host. Raises CannotStart."""
    import subprocess  # here, since it is seldom used

    own = tempfile.mkdtemp(dir=folder())
    certificate, key = os.path.join(own, "certificate.pem"), os.path.join(own, "key.pem")
    names = dict.fromkeys(("DNS:localhost", "IP:127.0.0.1", "IP:::1", alternative_name(host)))
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=rawservers"
    names_option = f"subjectAltName={','.join(filter(None, names))}"
    command = ["openssl", *request.split(), "-days", str(DAYS), "-addext", names_option, "-keyout", key, "-out", certificate]
    before = os.umask(0o077)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603, PLW1510
    except FileNotFoundError as error:
        raise CannotStart("--tls-self-signed needs the openssl command, which is not installed") from error
    except OSError as error:
        raise CannotStart(f"--tls-self-signed: cannot run openssl: {os_error_text(error)}") from error
    finally:
        os.umask(before)
    if done.returncode:
        raise CannotStart(f"--tls-self-signed: openssl failed: {''.join(done.stderr.strip().splitlines()[-1:])}")
    log.info("the certificate is signed by no authority; for clients that are to trust it: %s", certificate)
    return TLSConfig(certificate, key)


class Trusted(NamedTuple):
    """A certificate of an authority that is made for this process. ca_file: its certificate, in PEM, for clients."""

    tls: TLSConfig
    ca_file: str


@cache
def make_trusted(host: str = "") -> Trusted:
    """A certificate for localhost, its addresses and `host`, once for each host. Raises ValueError if there is no trustme."""
    names = dict.fromkeys(filter(None, ("localhost", "127.0.0.1", "::1", host.strip("[]"))))
    issued = authority().issue_cert(*names).private_key_and_cert_chain_pem.bytes()
    with tempfile.NamedTemporaryFile(dir=folder(), suffix=".pem", delete=False) as file:
        file.write(issued)
    ca_file = os.path.join(folder(), "ca.pem")
    authority().cert_pem.write_to_path(ca_file)
    return Trusted(TLSConfig(file.name), ca_file)


@cache
def authority() -> CA:
    """The authority of this process. Raises ValueError if there is no trustme."""
    try:
        import trustme
    except ImportError as error:
        raise ValueError("tls: to make a certificate needs the package trustme: pip install 'rawservers[tls]'") from error
    return trustme.CA()


@cache
def folder() -> str:
    """The path of the folder."""
    made = tempfile.TemporaryDirectory(prefix="rawservers-tls-")
    atexit.register(made.cleanup)
    return made.name


def alternative_name(host: str) -> str:
    """A host as written before a port, as a subjectAltName; "" for none."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return f"DNS:{host}" if host else ""
    return f"IP:{address}" if not address.is_unspecified else ""
