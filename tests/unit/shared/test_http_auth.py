"""Tokens: what is accepted, and everything that is not."""

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from shared.errors import UnauthenticatedError
from shared.http import auth
from shared.http.auth import AUDIENCE, LOCAL_ISSUER, Principal, TokenVerifier
from shared.http.jwks import FixedKeys

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_JWK = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
OTHER = ec.generate_private_key(ec.SECP256R1())
PUBLIC_PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(LOCAL_ISSUER, FixedKeys({"k1": jwt.PyJWK(PUBLIC_JWK)}))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {
        "iss": LOCAL_ISSUER,
        "aud": AUDIENCE,
        "sub": "p_1",
        "iat": now,
        "exp": now + 600,
        "roles": ["participant"],
        "programs": ["rm"],
    }
    merged = good | changes
    return {name: value for name, value in merged.items() if value is not ...}


def token(
    key: ec.EllipticCurvePrivateKey = KEY, headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    return jwt.encode(
        claims(**changes),
        key,
        algorithm="ES256",
        headers={"kid": "k1"} if headers is None else headers,
    )


def compact(header: object, payload: object, signature: bytes = b"") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return ".".join(
        [part(json.dumps(header).encode()), part(json.dumps(payload).encode()), part(signature)]
    )


def test_a_good_token_names_the_caller(verifier: TokenVerifier) -> None:
    caller = verifier.verify(token(roles=["coordinator", "of-something-else"]))
    assert caller == Principal("p_1", frozenset({"coordinator"}), frozenset({"rm"}))
    assert caller.coordinates("rm")
    assert not caller.coordinates("other")


NOW = int(time.time())
REFUSED: dict[str, str] = {
    "nothing": "",
    "no token": "Zaphod",
    "three dots": "...",
    "not base64": "a.b.c",
    "not ASCII": "ä.ö.ü",
    "endless": "a" * 1_000_000,
    "alg none": compact({"alg": "none", "kid": "k1"}, claims()),
    "alg none, unsigned, typed": compact({"alg": "None", "typ": "JWT", "kid": "k1"}, claims()),
    "many brackets": "W1tb" * 500 + ".e30.c2ln",
    "header without key id": token(headers={}),
    "key id of a wrong type": compact({"alg": "ES256", "kid": ["k1"]}, claims(), b"s" * 64),
    "unknown key id": token(headers={"kid": "k2"}),
    "signed by another": token(OTHER),
    "wrong audience": token(aud="elsewhere"),
    "wrong issuer": token(iss="urn:elsewhere"),
    "part of the issuer": token(iss=LOCAL_ISSUER[:-1]),
    "expired": token(exp=NOW - 31),
    "not yet valid": token(nbf=NOW + 3600),
    "issued in the future": token(iat=NOW + 3600),
    "endless expiry": token(exp=float("inf")),
    "expiry as text": token(exp="never"),
    "critical extension": token(headers={"kid": "k1", "crit": ["x"], "x": 1}),
    "empty subject": token(sub=" "),
    "subject of a wrong type": token(sub=7),
    "roles as text": token(roles="participant-hr-operator"),
    "programs as text": token(programs="rm"),
    "roles as an object": token(roles={"hr": True}),
    "without issuer": token(iss=...),
    "without audience": token(aud=...),
    "without subject": token(sub=...),
    "without time of issue": token(iat=...),
    "without expiry": token(exp=...),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_token_is_refused_without_saying_why(verifier: TokenVerifier, name: str) -> None:
    with pytest.raises(UnauthenticatedError, match=r"^The bearer token is not valid\.$"):
        verifier.verify(REFUSED[name])


def test_the_public_key_is_no_secret(verifier: TokenVerifier) -> None:
    signed = compact({"alg": "HS256", "kid": "k1"}, claims()).rpartition(".")[0]
    signature = hmac.digest(PUBLIC_PEM, signed.encode(), "sha256")
    forged = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(UnauthenticatedError):
        verifier.verify(forged)


def test_a_changed_payload_breaks_the_signature(verifier: TokenVerifier) -> None:
    header, _, signature = token().split(".")
    payload = compact({}, claims(roles=["hr"])).split(".")[1]
    with pytest.raises(UnauthenticatedError):
        verifier.verify(f"{header}.{payload}.{signature}")


def test_a_clock_may_be_half_a_minute_off(verifier: TokenVerifier) -> None:
    assert verifier.verify(token(exp=int(time.time()) - 5)).subject == "p_1"


def test_a_remembered_token_expires_all_the_same(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    short = token(exp=int(now) + 20)
    verifier.verify(short)
    monkeypatch.setattr("shared.http.auth.time.time", lambda: now + 18)
    verifier.verify(short)
    assert len(verifier._known) == 1
    # Its time is over: forgotten, and checked anew by the library's own clock from now on.
    monkeypatch.setattr("shared.http.auth.time.time", lambda: now + 21)
    monkeypatch.setattr(verifier, "_keys", {})
    with pytest.raises(UnauthenticatedError):
        verifier.verify(short)
    assert len(verifier._known) == 0


def test_the_tokens_used_last_are_remembered(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_CACHE", 2)
    first, second, third = (token(sub=f"p_{n}") for n in range(3))
    for one in (first, second, first, third):
        verifier.verify(one)
    assert list(verifier._known) == [first, third]


def test_a_refused_token_is_not_remembered(verifier: TokenVerifier) -> None:
    for refused in REFUSED.values():
        with pytest.raises(UnauthenticatedError):
            verifier.verify(refused)
    assert len(verifier._known) == 0
