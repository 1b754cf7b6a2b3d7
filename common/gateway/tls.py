"""TLS with a certificate and a key from files, read again when they change.

A handshake gets the context of the newest good pair; connections keep the one they began with. A new
pair that cannot be used is reported, and the last good one stays in force.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, Problem

CHECK_S = 1.0
"""How often the files are looked at, in seconds; only while clients connect."""

SOON_S = 14 * 86400.0
"""A certificate that ends sooner is worth a warning."""

CERTIFICATE_PATH = "General/tls_certificate_file"
KEY_PATH = "General/tls_key_file"

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID

# OpenSSL's own words for what users meet most.
_REASONS = {
    "KEY_VALUES_MISMATCH": "the private key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be accepted",
    "CA_MD_TOO_WEAK": "the certificate is signed with a hash that is too weak",
}


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files: the server's certificate with those up to its authority's, and the private key."""

    certificate: Path
    key: Path


class TlsContexts:
    """The context to listen with; each handshake gets what the files hold.

    Args:
        files: What is served with.
        log: Gets warnings and what was loaded.
        clock: Monotonic seconds.
        wall_clock: Unix time in seconds.

    Raises:
        ConfigurationError: The files cannot be read or used, or do not belong together.
    """

    def __init__(
        self,
        files: CertificateFiles,
        log: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._log = log
        self._clock = clock
        self._wall_clock = wall_clock
        self._check_at = clock() + CHECK_S
        self._stamp = self._file_stamp()
        self._current = load_context(files)
        self._warn()
        #: For `asyncio`'s ``ssl=``; stays the same.
        self.context = load_context(files)
        self.context.sni_callback = self._choose

    def _choose(self, connection: Any, server_name: str | None, context: ssl.SSLContext) -> None:
        """Called in each handshake, whether or not the client names a server."""
        if self._clock() >= self._check_at:
            self._reload_if_changed()
        connection.context = self._current

    def _reload_if_changed(self) -> None:
        self._check_at = self._clock() + CHECK_S
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._current = load_context(self._files)
        except ConfigurationError as error:
            # The two files are rarely replaced at the same moment.
            self._log(f"The TLS certificate stays as it was: {error}")
            return
        self._log(f"TLS: the certificate {self._files.certificate} was loaded again.")
        self._warn()

    def _warn(self) -> None:
        warning = certificate_warning(self._current, self._files.certificate, self._wall_clock())
        if warning:
            self._log(f"WARNING: {warning}")

    def _file_stamp(self) -> tuple[object, ...]:
        return tuple(_stamp_of(path) for path in (self._files.certificate, self._files.key))


def load_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and later with this certificate.

    Raises:
        ConfigurationError: The files cannot be read or used, or do not belong together.
    """
    problems = [
        Problem(message, title, name, str(path))
        for path, title, name, what in (
            (files.certificate, "TLS Certificate File", CERTIFICATE_PATH, b"CERTIFICATE-----"),
            (files.key, "TLS Key File", KEY_PATH, b"PRIVATE KEY-----"),
        )
        if (message := _fault_of(path, what)) is not None
    ]
    if problems:
        raise ConfigurationError(problems)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password of ours OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        said = _REASONS.get(str(reason)) or str(reason or error).replace("_", " ").lower()
        message = f"certificate and key ({files.key}) cannot be used: {said}"
        raise ConfigurationError(
            [Problem(message, "TLS Certificate File", CERTIFICATE_PATH, str(files.certificate))]
        ) from error
    return context


def certificate_warning(context: ssl.SSLContext, certificate: Path, now: float) -> str | None:
    """Say what clients would have against the certificate, as far as it can be told from here.

    A handshake in memory, with a client that trusts this very certificate: Python's standard
    library reads a certificate's fields in no other way.

    Args:
        context: Loaded with it.
        certificate: Its file.
        now: Unix time in seconds.

    Returns:
        The warning; None when there is nothing to say.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(certificate)
        fields = _handshake(context, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return f"the TLS certificate {certificate} has expired: clients will refuse it."
        if error.verify_code == _NOT_YET_VALID:
            return f"the TLS certificate {certificate} is not valid yet: clients will refuse it."
        return f"clients may refuse the TLS certificate {certificate}: {error.verify_message}."
    except ssl.SSLError as error:
        return f"the TLS certificate {certificate} could not be tried out: {error.reason}."
    left_s = ssl.cert_time_to_seconds(str(fields["notAfter"])) - now
    if left_s < SOON_S:
        days = max(0, round(left_s / 86400))
        return f"the TLS certificate {certificate} expires in {days} days; it is read again when it changes."
    return None


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Connect the two in memory; returns the server's certificate as the client saw it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server)
    for side in (client_side, server_side, client_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(client_side.getpeercert() or {})


def _fault_of(path: Path, what: bytes) -> str | None:
    """What is wrong with a file that OpenSSL would only call a fault of its library."""
    try:
        text = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if what not in text:
        kind = "certificate" if what.startswith(b"CERT") else "private key"
        return f"is no PEM file with a {kind}"
    if b"ENCRYPTED" in text:
        return "the private key is encrypted; give a file with a plain one that this user alone can read"
    return None


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
