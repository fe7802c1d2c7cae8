"""A client of TLS 1.2 that asks for a new handshake again and again, which no library does.

The first handshake is Python's. What follows is made here, by keys from its key log (RFC 5246 §6.3, RFC 5288 §3): records with
an empty ClientHello. A server that refuses does not look into one.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hmac
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator

PATIENCE = 5.0  # seconds, for each part of the first handshake
RECORDS = 1000  # in a piece
HELLO = b"\x01\x00\x00\x00"  # type and length
CIPHER = "ECDHE+AESGCM+AES128"
GET_TAG = 0x10  # EVP_CTRL_AEAD_GET_TAG


class GCM:
    """AES-128-GCM, by OpenSSL's library: Python has none."""

    def __init__(self, key: bytes) -> None:
        self._library = library = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
        library.EVP_CIPHER_CTX_new.restype = library.EVP_aes_128_gcm.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(library.EVP_CIPHER_CTX_new())
        library.EVP_EncryptInit_ex(self._context, ctypes.c_void_p(library.EVP_aes_128_gcm()), None, key, None)

    def __del__(self) -> None:
        self._library.EVP_CIPHER_CTX_free(self._context)

    def encrypt(self, nonce: bytes, data: bytes, extra: bytes) -> bytes:
        """The ciphertext, and behind it the tag."""
        library, context, size = self._library, self._context, ctypes.c_int()
        out, tag = ctypes.create_string_buffer(len(data) + 16), ctypes.create_string_buffer(16)
        library.EVP_EncryptInit_ex(context, None, None, None, nonce)
        library.EVP_EncryptUpdate(context, None, ctypes.byref(size), extra, len(extra))
        library.EVP_EncryptUpdate(context, out, ctypes.byref(size), data, len(data))
        library.EVP_EncryptFinal_ex(context, tag, ctypes.byref(size))
        library.EVP_CIPHER_CTX_ctrl(context, GET_TAG, 16, tag)
        return out.raw[: len(data)] + tag.raw


def renegotiations(sock: socket.socket) -> Iterator[bytes]:
    """Shake hands on a connection, and return what asks for another handshake, without end, RECORDS times in each piece.

    Raises OSError.
    """
    secret, seed = shake_hands(sock)
    keys = expand(secret, b"key expansion" + seed, 40)
    return records(GCM(keys[:16]), keys[32:36])


def shake_hands(sock: socket.socket) -> tuple[bytes, bytes]:
    """The master secret, and the server's random bytes with the client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.set_ciphers(CIPHER)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    heard = b""
    with tempfile.NamedTemporaryFile() as log:
        context.keylog_filename = log.name
        tls = context.wrap_bio(incoming, outgoing)
        sock.settimeout(PATIENCE)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                data = sock.recv(65536)
                if not data:
                    raise ConnectionError from None
                heard += data
                incoming.write(data)
        _, client_random, secret = log.read().splitlines()[-1].split()
    sock.setblocking(False)
    return bytes.fromhex(secret.decode()), heard[11:43] + bytes.fromhex(client_random.decode())


def expand(secret: bytes, seed: bytes, size: int) -> bytes:
    """The pseudorandom function of TLS 1.2, with SHA-256 (RFC 5246 §5)."""
    found, step = b"", seed
    while len(found) < size:
        step = hmac.digest(secret, step, "sha256")
        found += hmac.digest(secret, step + seed, "sha256")
    return found[:size]


def records(cipher: GCM, salt: bytes) -> Iterator[bytes]:
    number = 1  # the first was the end of the handshake
    while True:
        piece = []
        for each in range(number, number + RECORDS):
            nonce = struct.pack("!Q", each)
            sealed = cipher.encrypt(salt + nonce, HELLO, nonce + b"\x16\x03\x03" + struct.pack("!H", len(HELLO)))
            piece.append(b"\x16\x03\x03" + struct.pack("!H", 8 + len(sealed)) + nonce + sealed)
        number += RECORDS
        yield b"".join(piece)
