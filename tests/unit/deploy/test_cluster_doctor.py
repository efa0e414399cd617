"""The doctor of a cluster of which nothing answers: every part is told of, and nothing raised."""

import base64
from pathlib import Path

import pytest

from deploy.client import Answer, ApiError, Client, Json, UnreachableError
from deploy.cluster.doctor import examine
from deploy.findings import Finding, flows
from shared.clock import monotonic
from shared.events.topics import SERVICES
from tests.support.servers import free_ports


def of(findings: list[Finding], what: str) -> Finding:
    (found,) = (finding for finding in findings if finding.what == what)
    return found


@pytest.fixture
def closed() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SERVERS", closed)
    monkeypatch.setenv("UPWARD_MONGODB_URI", f"mongodb://user:secret@{closed}/")
    monkeypatch.setenv("UPWARD_AUTH_ISSUER", "https://login.example.com")
    monkeypatch.setenv("UPWARD_AUTH_JWKS", "https://login.example.com/keys")
    monkeypatch.setenv("UPWARD_SECRET_KEY", base64.b64encode(b"k" * 32).decode())


async def test_what_does_not_answer_is_told_within_seconds(closed: str) -> None:
    started = monotonic()
    findings = await examine(f"http://{closed}", "a token")

    assert monotonic() - started < 20
    assert of(findings, "Kafka").state == "wrong"
    assert closed.rpartition(":")[2] in of(findings, "Kafka").found
    assert of(findings, "MongoDB").state == "wrong"
    assert "secret" not in of(findings, "MongoDB").found
    # Elsewhere it may well run: no more than a note.
    assert of(findings, "platform").state == "note"


async def test_a_wrong_setting_is_told_by_its_variable_and_its_part_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed: str
) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv("UPWARD_KAFKA_SSL_CA_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("UPWARD_MONGODB_URI", "postgres://user:secret@db")
    monkeypatch.delenv("UPWARD_AUTH_JWKS")

    findings = await examine(f"http://{closed}", None)

    assert [finding.state for finding in findings] == ["wrong", "wrong", "wrong", "ok", "note"]
    kafka, mongodb, auth, service, platform = findings
    assert kafka.what == "UPWARD_KAFKA_…"
    assert kafka.found.startswith("UPWARD_KAFKA_SSL_CA_FILE: ")
    assert mongodb.found.startswith("UPWARD_MONGODB_URI: ")
    assert "secret" not in mongodb.found
    assert auth.found.startswith("UPWARD_AUTH_JWKS: ")
    assert (service.what, platform.what) == ("UPWARD_…", "platform")


async def test_a_misspelled_variable_hides_nothing_else(
    monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SERVER", closed)
    monkeypatch.setenv("UPWARD_MONGODB_URI", "postgres://user:secret@db")

    findings = await examine(f"http://{closed}", None)

    assert "UPWARD_KAFKA_SERVERS is" in of(findings, "variables").found
    assert of(findings, "UPWARD_KAFKA_…").state == "ok"
    assert of(findings, "UPWARD_MONGODB_…").found.startswith("UPWARD_MONGODB_URI: ")
    assert of(findings, "UPWARD_AUTH_…").state == "ok"


async def test_an_address_that_is_none_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPWARD_MONGODB_URI")
    assert "is no address" in of(await examine("localhost", None), "platform").found


class Platform(Client):
    """A platform of which every service says something else."""

    async def get(self, token: str, path: str, **query: str | int) -> Json:
        idle = {"outbox_pending": 0, "lag": 7, "dead_letters_open": 0, "stopped_because": None}
        match path.split("/")[1]:
            case "matching":
                return idle | {"dead_letters_open": 2}
            case "sessions":
                return idle | {"stopped_because": "too many dead letters"}
            case "feedback":
                raise ApiError(path, Answer(403, b'{"code": "forbidden"}'))
            case "reporting":
                raise UnreachableError("Nothing answers.")
            case _:
                return idle


async def test_one_service_s_trouble_leaves_the_others_to_be_told() -> None:
    async with Platform("http://127.0.0.1") as platform:
        findings = await flows(platform, "a token")

    assert [finding.what for finding in findings] == list(SERVICES)
    assert [finding.state for finding in findings] == ["ok", "wrong", "wrong", "wrong", "wrong"]
    enrollment, matching, sessions, feedback, reporting = findings
    assert enrollment.found == "outbox 0, lag 7, dead letters 0"
    assert matching.advice == "upward dlq list matching"
    assert sessions.found == "too many dead letters"
    assert "operator" in feedback.advice
    assert reporting.found == "Nothing answers."
