from __future__ import annotations

import ssl

import pytest
import trustme

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.transport.tls import build_ssl_context, explain_tls, ssl_context_factory


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


def _subjects(context):
    return [dict(pair[0] for pair in cert["subject"]) for cert in context.get_ca_certs()]


def test_build_ssl_context_when_called_then_verifies_certificate_and_host_name():
    context = build_ssl_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is True
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_build_ssl_context_when_given_a_ca_file_then_adds_to_the_default_store(
    ca, tmp_path, monkeypatch
):
    own, default = tmp_path / "own.pem", tmp_path / "default.pem"
    ca.cert_pem.write_to_path(str(own))
    trustme.CA().cert_pem.write_to_path(str(default))
    monkeypatch.setenv("SSL_CERT_FILE", str(default))

    assert len(_subjects(build_ssl_context())) == 1
    both = build_ssl_context(own)

    assert len(_subjects(both)) == 2
    assert both.verify_mode is ssl.CERT_REQUIRED


def test_build_ssl_context_when_the_ca_file_is_missing_then_names_the_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"ca_file \(Z4J_CA_FILE\): cannot be read") as caught:
        build_ssl_context(tmp_path / "none.pem")

    assert str(tmp_path) not in str(caught.value)


def test_build_ssl_context_when_the_ca_file_holds_no_certificate_then_says_so(tmp_path):
    path = tmp_path / "bad.pem"
    path.write_text("not a certificate")

    with pytest.raises(ConfigError, match="holds no usable certificate"):
        build_ssl_context(path)


def test_ssl_context_factory_when_the_file_changes_then_reads_it_again(ca, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    path = tmp_path / "own.pem"
    ca.cert_pem.write_to_path(str(path))
    make = ssl_context_factory(path)
    assert len(_subjects(make())) == 1

    path.write_bytes(ca.cert_pem.bytes() + trustme.CA().cert_pem.bytes())

    assert len(_subjects(make())) == 2


def test_explain_tls_when_the_issuer_is_unknown_then_points_to_ca_file():
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = 20, "unable to get local issuer certificate"

    assert explain_tls(error) == (
        "the certificate was not accepted: unable to get local issuer certificate; if the "
        "brain's CA is your own, name it in ca_file (Z4J_CA_FILE)"
    )


def test_explain_tls_when_the_certificate_expired_then_only_repeats_the_verifier():
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = 10, "certificate has expired"

    assert explain_tls(error) == "the certificate was not accepted: certificate has expired"


def test_explain_tls_when_the_reason_is_another_then_spells_it_out():
    error = ssl.SSLError(1, "x")
    error.reason = "TLSV1_ALERT_PROTOCOL_VERSION"

    assert explain_tls(error) == "the TLS handshake failed: tlsv1 alert protocol version"
    assert explain_tls(ssl.SSLError(1, "x")) == "the TLS handshake failed: handshake failed"
