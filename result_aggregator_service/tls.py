"""TLS contexts: whose signature a server's certificate must bear. What is refused is logged, as not every driver tells.

Invariant: certificates and host names are always verified; there is no way to switch that off here.
"""

import ssl
from pathlib import Path

import structlog
from typing_extensions import Buffer

_log = structlog.get_logger(__name__)


class _Telling(ssl.SSLObject):
    """A connection's TLS, which logs why it fails: aiokafka only says that it could not connect."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            _log.warning(
                "certificate_refused",
                host=self.server_hostname,
                reason=error.verify_message,
                mend="see docs/security.md: the authority's file, the host's name, the certificate's dates",
            )
            raise

    def read(self, len: int = 1024, buffer: Buffer | None = None) -> bytes:
        try:
            return super().read(len, buffer)
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):  # so a server says that it does not take the client's certificate
                _log.warning("certificate_not_taken", host=self.server_hostname, reason=error.reason)
            raise


def client_context(authority: Path | None) -> ssl.SSLContext:
    """A context that trusts an authority's certificates, or those that the system trusts.

    Raises:
        OSError: the file cannot be read, or holds no certificates (ssl.SSLError).
    """
    context = ssl.create_default_context(cafile=None if authority is None else str(authority))
    context.sslobject_class = _Telling
    return context
