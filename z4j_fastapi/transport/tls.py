"""TLS towards the brain: always verified, with the operator's own CA beside the default ones."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from z4j_fastapi.errors import ConfigError


def build_ssl_context(ca_file: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """A client context that verifies certificate and host name. There is no switch against it.

    The default trust store honours `SSL_CERT_FILE` and `SSL_CERT_DIR`. Takes some milliseconds
    where the store is large.

    Args:
        ca_file: PEM file of certificates to trust besides.
    Raises:
        ConfigError: `ca_file` cannot be read or holds no certificate.
    Spec: config-and-cli.md 2.3.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=os.fspath(ca_file))
        except ssl.SSLError:  # also an OSError, so it comes first
            raise ConfigError(
                "ca_file (Z4J_CA_FILE): holds no usable certificate; give a PEM file"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"ca_file (Z4J_CA_FILE): cannot be read ({error.strerror}); give a readable "
                "PEM file"
            ) from None
    return context


def ssl_context_factory(
    ca_file: str | os.PathLike[str] | None = None,
) -> Callable[[], ssl.SSLContext]:
    """What a transport calls when it needs a context; a renewed `ca_file` is read again then.

    Args:
        ca_file: As for `build_ssl_context`.
    """
    return lambda: build_ssl_context(ca_file)


def explain_tls(error: ssl.SSLError) -> str:
    """The reason of a failed handshake, in the verifier's own words where it has some."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message.rstrip('.')}{_hint(error)}"
    # Errors that Python itself raises, not OpenSSL, have no such attribute.
    code: str = getattr(error, "reason", None) or "HANDSHAKE_FAILED"
    if code in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}:
        return "the other side does not speak TLS; is it an http:// address?"
    return f"the TLS handshake failed: {code.lower().replace('_', ' ')}"


#: OpenSSL's verification codes for an unknown issuer (self-signed, issuer missing, chain cut).
_UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})


def _hint(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _UNKNOWN_ISSUER:
        return "; if the brain's CA is your own, name it in ca_file (Z4J_CA_FILE)"
    return ""
