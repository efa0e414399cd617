"""Bearer tokens: who is asking, and in which roles. One code for every issuer."""

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from shared.durable import keep_file
from shared.errors import UnauthenticatedError
from shared.http.jwks import ALGORITHMS, FixedKeys
from shared.logging import get_logger

Role = Literal["participant", "coordinator", "analyst", "hr", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

AUDIENCE = "upward"
LOCAL_ISSUER = "urn:upward:local"
_LEEWAY_SECONDS = 30
_CACHE = 10_000
_INVALID = "The bearer token is not valid."
# The form of a compact JWS, and more than any issuer needs for these claims.
_TOKEN = re.compile(r"[\w-]{1,2000}\.[\w-]{1,6000}\.[\w-]{1,1000}", re.ASCII)


@dataclass(frozen=True)
class Principal:
    """Who asks. `subject` is the person's pseudonymous id for people, a name for machines."""

    subject: str
    roles: frozenset[Role]
    programs: frozenset[str] = frozenset()

    def has(self, *roles: Role) -> bool:
        """Return whether the caller has one of the roles."""
        return any(role in self.roles for role in roles)

    def coordinates(self, program_id: str) -> bool:
        """Return whether the caller is a coordinator of this very program."""
        return "coordinator" in self.roles and program_id in self.programs

    def analyzes(self, program_id: str) -> bool:
        """Return whether the caller may see this program's protected figures."""
        return self.has("analyst", "coordinator") and program_id in self.programs


class Keys(Protocol):
    """An issuer's public keys."""

    def get(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key of this id, None if it is not known."""
        ...


class TokenVerifier:
    """Checks tokens against known keys: fixed algorithms, exact issuer and audience.

    The tokens verified last are remembered until they expire, since a signature check costs more
    than most requests.
    """

    def __init__(self, issuer: str, keys: Keys, audience: str = AUDIENCE) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._known: OrderedDict[str, tuple[Principal, float]] = OrderedDict()
        self._log = get_logger("auth")

    def verify(self, token: str) -> Principal:
        """Return the caller. Raises UnauthenticatedError without saying which check failed."""
        known = self._known.pop(token, None)
        if known is not None and known[1] > time.time():
            self._known[token] = known
            return known[0]
        if not _TOKEN.fullmatch(token):
            raise UnauthenticatedError(_INVALID)
        try:
            key = self._keys.get(_text(jwt.get_unverified_header(token)["kid"]))
            if key is None:
                self._log.info("token_refused", reason="its key is not known")
                raise UnauthenticatedError(_INVALID)
            claims = jwt.decode(
                token,
                key,
                # The key's own algorithm, so that no header chooses; and none but the fixed ones.
                algorithms=[name for name in ALGORITHMS if name == key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "sub", "aud", "iss"]},
            )
            principal = Principal(
                subject=_text(claims["sub"]),
                roles=frozenset(role for role in ROLES if role in _texts(claims, "roles")),
                programs=_texts(claims, "programs"),
            )
            expires = float(claims["exp"])
        except (
            jwt.PyJWTError,
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,  # an expiry of 1e999
            RecursionError,  # a header of many brackets
        ) as error:
            # Who asks is not told which check failed; who runs the service may be.
            reason, claim = type(error).__name__, getattr(error, "claim", None)
            self._log.info("token_refused", reason=reason, claim=claim)
            raise UnauthenticatedError(_INVALID) from error
        self._known[token] = (principal, expires)
        if len(self._known) > _CACHE:
            self._known.popitem(last=False)
        return principal


def _text(claim: object) -> str:
    if not isinstance(claim, str) or not claim.strip():
        raise ValueError
    return claim


def _texts(claims: Mapping[str, object], name: str) -> frozenset[str]:
    # Of a single text, `in` and iteration would make roles and programs that nobody was given.
    claim = claims.get(name, [])
    if not isinstance(claim, list):
        raise TypeError
    return frozenset(map(_text, claim))


class LocalIssuer:
    """Issues tokens in embedded mode, from a key that it makes once and keeps in the data folder.

    The key file is readable by its owner alone.
    """

    _KEY_ID = "local-1"

    def __init__(self, key_file: Path) -> None:
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        key = serialization.load_pem_private_key(keep_file(key_file, pem), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            msg = f"{key_file} holds no elliptic curve key"
            raise TypeError(msg)
        self._key = key

    def issue(
        self,
        subject: str,
        roles: tuple[Role, ...],
        programs: tuple[str, ...] = (),
        lifetime: timedelta = timedelta(hours=12),
    ) -> str:
        """Return a signed token for `lifetime` from now (wall-clock time)."""
        now = int(time.time())
        claims = {
            "iss": LOCAL_ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + int(lifetime.total_seconds()),
            "roles": list(roles),
            "programs": list(programs),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._KEY_ID})

    def jwk(self) -> dict[str, Any]:
        """Return the public key as a JWK set's member."""
        key = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {**key, "kid": self._KEY_ID, "use": "sig", "alg": "ES256"}

    def verifier(self) -> TokenVerifier:
        """Return the verifier of this issuer's tokens."""
        return TokenVerifier(LOCAL_ISSUER, FixedKeys({self._KEY_ID: jwt.PyJWK(self.jwk())}))
