"""An issuer's key set: which keys are used, and how rotation and outages are lived through."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from shared.errors import UnauthenticatedError, UnavailableError
from shared.http import jwks
from shared.http.auth import AUDIENCE, LocalIssuer, TokenVerifier
from shared.http.jwks import JwkSet

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_JWK: dict[str, Any] = {
    **RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
    "kid": "rsa",
    "use": "sig",
    "alg": "RS256",
}


def write(path: Path, *keys: dict[str, Any]) -> str:
    path.write_text(json.dumps({"keys": list(keys)}))
    return str(path)


async def test_tokens_of_every_allowed_kind_of_key_are_accepted(tmp_path: Path) -> None:
    issuer = LocalIssuer(tmp_path / "key")
    keys = JwkSet(write(tmp_path / "jwks", issuer.jwk(), RSA_JWK))
    await keys.start()
    verifier = TokenVerifier("urn:upward:local", keys)
    assert verifier.verify(issuer.issue("p_1", ("participant",))).subject == "p_1"
    claims = {
        "iss": "urn:upward:local",
        "aud": AUDIENCE,
        "sub": "p_2",
        "iat": 0,
        "exp": 9_999_999_999,
    }
    token = jwt.encode(claims, RSA_KEY, algorithm="RS256", headers={"kid": "rsa"})
    assert verifier.verify(token).subject == "p_2"
    # The header does not choose: this key signs with RS256 and nothing else.
    other = jwt.encode(claims, RSA_KEY, algorithm="PS256", headers={"kid": "rsa"})
    with pytest.raises(UnauthenticatedError):
        verifier.verify(other)
    await keys.stop()


async def test_keys_for_other_uses_and_algorithms_are_left_out(tmp_path: Path) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "hs", "alg": "HS256"}
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    keys = JwkSet(
        write(
            tmp_path / "jwks",
            secret,
            {**OKPAlgorithm.to_jwk(edwards, as_dict=True), "kid": "ed"},
            {**ECAlgorithm.to_jwk(curve, as_dict=True), "kid": "p384"},
            {**RSA_JWK, "kid": "enc", "use": "enc"},
            {**RSA_JWK, "kid": ""},
            {"kty": "EC", "kid": "broken"},
            RSA_JWK,
        )
    )
    await keys.start()
    assert keys.get("rsa") is not None
    assert [keys.get(name) for name in ("hs", "ed", "p384", "enc", "", "broken")] == [None] * 6
    await keys.stop()


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


async def test_an_unknown_key_has_the_set_read_again_and_an_outage_keeps_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_SOONEST_SECONDS", 0.0)
    path = tmp_path / "jwks"
    keys = JwkSet(write(path, {**RSA_JWK, "kid": "old"}))
    await keys.start()
    write(path, {**RSA_JWK, "kid": "new"}, {**RSA_JWK, "kid": "old"})
    await _until(lambda: keys.get("new") is not None)
    path.unlink()
    reads = keys._read_at
    await _until(lambda: keys.get("unknown") is None and keys._read_at > reads)
    assert keys.get("new") is not None
    await keys.stop()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"keys": []}', '{"keys": [7]}', '{"keys": {"a": 1}}']
)
async def test_a_set_without_a_usable_key_is_refused_at_the_start(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "jwks").write_text(content)
    with pytest.raises(UnavailableError, match="jwks"):
        await JwkSet(str(tmp_path / "jwks")).start()
