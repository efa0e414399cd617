"""Cluster settings: every variable is documented, and a wrong one is named with its rule."""

import base64
import ssl
from pathlib import Path

import pytest
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram512

from deploy.cluster.platform import ClusterPlatform, derived_secret
from deploy.cluster.settings import (
    GROUPS,
    AuthSettings,
    KafkaSettings,
    MongoSettings,
    ServiceSettings,
    is_named,
    load,
    table,
)
from shared.errors import InvalidInputError
from tests.support.demo import ROOT

GOOD = {
    "UPWARD_KAFKA_SERVERS": "one:9092, two:9092",
    "UPWARD_MONGODB_URI": "mongodb://user:secret@db/?replicaSet=rs0",
    "UPWARD_AUTH_ISSUER": "https://login.example.com",
    "UPWARD_AUTH_JWKS": "https://login.example.com/keys",
    "UPWARD_SECRET_KEY": base64.b64encode(b"k" * 32).decode(),
}


@pytest.fixture(autouse=True)
def good(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def load_all() -> None:
    for group in GROUPS:
        load(group)


def test_the_readme_documents_every_variable() -> None:
    readme = (ROOT / "README.md").read_text()
    assert table() in readme, "run `upward settings` and put its table into README.md"


def test_the_variables_that_must_be_set_are_enough() -> None:
    assert load(KafkaSettings).servers == ("one:9092", "two:9092")
    assert load(KafkaSettings).security() is None
    assert load(MongoSettings).database_prefix == "upward_"
    assert load(AuthSettings).audience == "upward"
    assert load(ServiceSettings).secret_bytes == b"k" * 32


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UPWARD_KAFKA_SERVERS", " , ", "names no server"),
        ("UPWARD_KAFKA_SECURITY_PROTOCOL", "TLS", "UPWARD_KAFKA_SECURITY_PROTOCOL"),
        ("UPWARD_KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "needs UPWARD_KAFKA_SASL_USERNAME"),
        ("UPWARD_KAFKA_REQUEST_TIMEOUT_SECONDS", "0", "UPWARD_KAFKA_REQUEST_TIMEOUT_SECONDS"),
        ("UPWARD_MONGODB_URI", "postgres://user:secret@db", "UPWARD_MONGODB_URI"),
        ("UPWARD_MONGODB_DATABASE_PREFIX", "a b", "UPWARD_MONGODB_DATABASE_PREFIX"),
        ("UPWARD_AUTH_ISSUER", "", "UPWARD_AUTH_ISSUER"),
        ("UPWARD_SECRET_KEY", "c2VjcmV0", "UPWARD_SECRET_KEY: .*base64 of at least 32 bytes"),
        ("UPWARD_SECRET_KEY", "secret!", "UPWARD_SECRET_KEY"),
        ("UPWARD_REGION", "Magrathea!", "UPWARD_REGION"),
        ("UPWARD_KAFKA_SERVERS", "one:9092,two", "UPWARD_KAFKA_SERVERS: each server is host:port"),
        ("UPWARD_AUTH_JWKS", "http://here/keys", "UPWARD_AUTH_JWKS: it is an https:// address"),
        ("UPWARD_CLOCK_FILE", "/nowhere", "UPWARD_CLOCK_FILE: .*not point to a file"),
    ],
)
def test_a_wrong_value_is_told_by_its_variable_and_never_itself(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match=said) as caught:
        load_all()
    assert "secret@" not in caught.value.detail
    assert "c2VjcmV0" not in caught.value.detail


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(InvalidInputError, match=f"{name}: it must be set"):
        load_all()


@pytest.mark.parametrize(
    ("mechanism", "kind"), [("PLAIN", SASLPlaintext), ("SCRAM-SHA-512", SASLScram512)]
)
def test_a_login_travels_to_the_client(
    monkeypatch: pytest.MonkeyPatch, mechanism: str, kind: type[SASLPlaintext | SASLScram512]
) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("UPWARD_KAFKA_SASL_MECHANISM", mechanism)
    monkeypatch.setenv("UPWARD_KAFKA_SASL_USERNAME", "matching")
    monkeypatch.setenv("UPWARD_KAFKA_SASL_PASSWORD", "secret")
    security = load(KafkaSettings).security()
    assert isinstance(security, kind)
    assert (security.username, security.password) == ("matching", "secret")
    assert isinstance(security.ssl_context, ssl.SSLContext)


def test_certificates_are_checked_and_a_missing_file_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SECURITY_PROTOCOL", "SSL")
    security = load(KafkaSettings).security()
    assert isinstance(security, BaseSecurity)
    assert security.ssl_context is not None
    assert security.ssl_context.verify_mode is ssl.CERT_REQUIRED
    assert security.ssl_context.check_hostname
    monkeypatch.setenv("UPWARD_KAFKA_SSL_CA_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InvalidInputError, match=r"UPWARD_KAFKA_SSL_CA_FILE: .*not point"):
        load(KafkaSettings)
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(OSError, match="NO_CERTIFICATE"):
        load(KafkaSettings).security()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("UPWARD_AUTH_AUDIANCE", ", UPWARD_AUTH_AUDIENCE is"),
        ("UPWARD_MONGODB_DATABASE_PREFX", ", UPWARD_MONGODB_DATABASE_PREFIX is"),
        ("UPWARD_SECRET_KEYS", ", UPWARD_SECRET_KEY is"),
        ("UPWARD_ZZZZZZZZZZZZZZZZZZZZ", ""),
    ],
)
def test_a_misspelled_variable_is_refused_and_not_its_default_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidInputError) as caught:
        load(MongoSettings)
    assert caught.value.detail == f"{name} is no setting{hint}"


def test_a_command_tells_what_is_misspelled_beside_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UPWARD_REGIO", "x")
    monkeypatch.setenv("UPWARD_MONGODB_URI", "postgres://user:secret@db")
    with pytest.raises(InvalidInputError, match=r"UPWARD_REGIO is no .*; UPWARD_MONGODB_URI: "):
        load(MongoSettings)


def test_a_start_tells_every_fault_of_every_group_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SERVER", "one:9092")
    monkeypatch.setenv("UPWARD_MONGODB_URI", "postgres://user:secret@db")
    monkeypatch.delenv("UPWARD_AUTH_ISSUER")
    monkeypatch.delenv("UPWARD_SECRET_KEY")
    with pytest.raises(InvalidInputError) as caught:
        ClusterPlatform("matching")
    told = caught.value.detail.split("; ")
    assert [each.split()[0].rstrip(":") for each in told] == [
        "UPWARD_KAFKA_SERVER",
        "UPWARD_MONGODB_URI",
        "UPWARD_AUTH_ISSUER",
        "UPWARD_SECRET_KEY",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "UPWARD_KAFKA_SERVICE_HOST",
        "UPWARD_KAFKA_SERVICE_PORT_TLS",
        "UPWARD_ENROLLMENT_PORT",
        "UPWARD_ENROLLMENT_PORT_8080_TCP_ADDR",
        "UPWARD_LOG_LEVEL",
    ],
)
def test_what_kubernetes_and_the_command_line_set_is_no_misspelling(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    load_all()


@pytest.mark.parametrize(
    "name", [*(n for n in GOOD if n != "UPWARD_REGION"), "UPWARD_KAFKA_SERVER"]
)
def test_any_variable_of_the_cluster_s_own_says_that_there_is_one(name: str) -> None:
    assert is_named({name: "x"})


@pytest.mark.parametrize(
    "name", ["UPWARD_DATA", "UPWARD_REGION", "UPWARD_KAFKA_SERVICE_HOST", "HOME"]
)
def test_no_other_variable_does(name: str) -> None:
    assert not is_named({name: "x"})


def test_each_service_has_secrets_of_its_own_that_never_change() -> None:
    secrets = {
        derived_secret(b"k" * 32, service, name)
        for service in ("enrollment", "feedback")
        for name in ("pseudonyms", "cursors")
    }
    assert len(secrets) == 4
    assert derived_secret(b"k" * 32, "enrollment", "pseudonyms") in secrets
    assert derived_secret(b"l" * 32, "enrollment", "pseudonyms") not in secrets
