"""Every setting of cluster mode, read from environment variables; README's table is made of it."""

import base64
import binascii
import difflib
import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Self, TypeVar

from faststream.security import (
    BaseSecurity,
    SASLPlaintext,
    SASLScram256,
    SASLScram512,
)
from pydantic import (
    Field,
    FilePath,
    MongoDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import InvalidInputError
from shared.messaging.consumer import SESSION_TIMEOUT_SECONDS

S = TypeVar("S", bound=BaseSettings)

_SECRET_BYTES = 32
_PLAINTEXT = ("PLAINTEXT", "SASL_PLAINTEXT")


class KafkaSettings(BaseSettings):
    """How to reach Apache Kafka."""

    model_config = SettingsConfigDict(env_prefix="UPWARD_KAFKA_", hide_input_in_errors=True)

    servers: Annotated[tuple[str, ...], NoDecode] = Field(
        description="Bootstrap servers, `host:port`, separated by commas"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="As Kafka names it"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="How to log in, where the protocol has SASL"
    )
    sasl_username: str | None = Field(default=None, description="This service's own Kafka user")
    sasl_password: SecretStr | None = Field(default=None, description="That user's password")
    ssl_ca_file: FilePath | None = Field(
        default=None, description="PEM file of the authorities to trust; else the system's"
    )
    ssl_cert_file: FilePath | None = Field(
        default=None, description="PEM file of the client certificate, for mutual TLS"
    )
    ssl_key_file: FilePath | None = Field(
        default=None, description="PEM file of that certificate's private key"
    )
    ssl_key_password: SecretStr | None = Field(default=None, description="That key's password")
    request_timeout_seconds: float = Field(
        default=10, gt=0, le=120, description="How long one request to a broker may take"
    )
    session_timeout_seconds: float = Field(
        default=SESSION_TIMEOUT_SECONDS,
        ge=6,
        le=300,
        description="How long a replica may be silent before its group goes on without it",
    )

    @field_validator("servers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(server for part in value.split(",") if (server := part.strip()))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.servers:
            msg = "UPWARD_KAFKA_SERVERS names no server"
            raise ValueError(msg)
        if not all(re.fullmatch(r".+:\d{1,5}", server) for server in self.servers):
            msg = "UPWARD_KAFKA_SERVERS: each server is host:port"
            raise ValueError(msg)
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_username and self.sasl_password
        ):
            msg = (
                f"{self.security_protocol} needs UPWARD_KAFKA_SASL_USERNAME and"
                " UPWARD_KAFKA_SASL_PASSWORD"
            )
            raise ValueError(msg)
        return self

    def security(self) -> BaseSecurity | None:
        """Return FastStream's security object. Raises OSError for files that hold no such thing."""
        context = None if self.security_protocol in _PLAINTEXT else self._context()
        if not self.security_protocol.startswith("SASL"):
            return None if context is None else BaseSecurity(ssl_context=context, use_ssl=True)
        assert self.sasl_username is not None
        assert self.sasl_password is not None
        mechanism = {
            "PLAIN": SASLPlaintext,
            "SCRAM-SHA-256": SASLScram256,
            "SCRAM-SHA-512": SASLScram512,
        }[self.sasl_mechanism]
        return mechanism(
            username=self.sasl_username,
            password=self.sasl_password.get_secret_value(),
            ssl_context=context,
            use_ssl=context is not None,
        )

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ssl_ca_file)
        if self.ssl_cert_file is not None:
            password = self.ssl_key_password
            context.load_cert_chain(
                self.ssl_cert_file,
                self.ssl_key_file,
                None if password is None else password.get_secret_value(),
            )
        return context


class MongoSettings(BaseSettings):
    """How to reach MongoDB."""

    model_config = SettingsConfigDict(env_prefix="UPWARD_MONGODB_", hide_input_in_errors=True)

    uri: SecretStr = Field(
        description="Connection string of a replica set; TLS, user and password stand in it"
    )
    database_prefix: str = Field(
        default="upward_",
        pattern=r"^[a-z0-9_-]{1,30}$",
        description="Each service has the database of this prefix and its name",
    )

    @field_validator("uri")
    @classmethod
    def _is_uri(cls, value: SecretStr) -> SecretStr:
        try:
            TypeAdapter(MongoDsn).validate_python(value.get_secret_value())
        except ValidationError:
            msg = "it begins with mongodb:// or mongodb+srv:// and names a host"
            raise ValueError(msg) from None
        return value


class AuthSettings(BaseSettings):
    """Whose bearer tokens are accepted."""

    model_config = SettingsConfigDict(env_prefix="UPWARD_AUTH_", hide_input_in_errors=True)

    issuer: str = Field(min_length=1, description="The tokens' exact `iss`")
    audience: str = Field(default="upward", min_length=1, description="The tokens' `aud`")
    jwks: str = Field(
        min_length=1,
        description="The issuer's public keys (JWK set): an https:// address or a file",
    )

    @field_validator("jwks")
    @classmethod
    def _is_source(cls, value: str) -> str:
        if "://" in value and not value.startswith("https://"):
            msg = "it is an https:// address or a file"
            raise ValueError(msg)
        return value


class ServiceSettings(BaseSettings):
    """What else one process of a service needs."""

    model_config = SettingsConfigDict(env_prefix="UPWARD_", hide_input_in_errors=True)

    region: str = Field(
        default="local",
        pattern=r"^[a-z0-9-]{1,30}$",
        description="The region, part of every event's `source`",
    )
    secret_key: SecretStr = Field(
        description="At least 32 random bytes in base64, the same for all replicas and for good: "
        "pseudonyms are made with it"
    )
    clock_file: FilePath | None = Field(
        default=None, description="Simulated time, for demos and tests; else the system's clock"
    )

    @field_validator("secret_key")
    @classmethod
    def _is_long_enough(cls, value: SecretStr) -> SecretStr:
        try:
            size = len(base64.b64decode(value.get_secret_value(), validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if size < _SECRET_BYTES:
            msg = f"it is base64 of at least {_SECRET_BYTES} bytes (openssl rand -base64 32)"
            raise ValueError(msg)
        return value

    @property
    def secret_bytes(self) -> bytes:
        """The secret key's bytes."""
        return base64.b64decode(self.secret_key.get_secret_value())


GROUPS: tuple[type[BaseSettings], ...] = (
    KafkaSettings,
    MongoSettings,
    AuthSettings,
    ServiceSettings,
)


_OF_THE_COMMAND = frozenset(
    f"UPWARD_{name}" for name in ("DATA", "URL", "TOKEN", "HOST", "PORT", "LOG_LEVEL", "FAILPOINT")
)
# Kubernetes tells each pod of every service of its namespace, in variables of these forms.
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")


def is_named(environment: Mapping[str, str]) -> bool:
    """Return whether a variable of the cluster's own is set, if only by a part of its name."""
    own = tuple(
        kind.model_config["env_prefix"] for kind in (KafkaSettings, MongoSettings, AuthSettings)
    )
    return any(
        name == "UPWARD_SECRET_KEY" or (name.startswith(own) and not _SERVICE_LINK.fullmatch(name))
        for name in environment
    )


def load(kind: type[S]) -> S:
    """Read settings from the environment.

    Raises InvalidInputError, which names every variable at fault and its rule. A misspelled one is
    at fault, too: it would leave its default in force without a word.
    """
    _refuse([*misspelled(os.environ), *faults(kind)])
    return kind()


def check_all() -> None:
    """Raise InvalidInputError, which names the faults of all groups at once."""
    found = [*misspelled(os.environ), *(fault for kind in GROUPS for fault in faults(kind))]
    _refuse(found)


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise InvalidInputError("; ".join(found))


def misspelled(environment: Mapping[str, str]) -> list[str]:
    """Tell of each variable that looks like a setting and is none."""
    known = {variable(kind, name) for kind in GROUPS for name in kind.model_fields}
    found = []
    for name in sorted(environment):
        if not name.startswith("UPWARD_") or name in known | _OF_THE_COMMAND:
            continue
        if _SERVICE_LINK.fullmatch(name):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        found.append(f"{name} is no setting" + (f", {near[0]} is" if near else ""))
    return found


def faults(kind: type[BaseSettings]) -> list[str]:
    """Tell what is wrong with this group's variables, each by its name and its rule."""
    try:
        kind()
    except ValidationError as error:
        return [
            f"{variable(kind, str(item['loc'][0]))}: {_rule(item)}" if item["loc"] else _rule(item)
            for item in error.errors()
        ]
    return []


def _rule(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "it must be set"
    return error["msg"].removeprefix("Value error, ")


def variable(kind: type[BaseSettings], field: str) -> str:
    """Return the environment variable of a field."""
    return f"{kind.model_config['env_prefix']}{field}".upper()


def table() -> str:
    """Return all settings as a Markdown table: variable, default, meaning."""
    return "\n".join(
        ("| Variable | Default | Meaning |", "|---|---|---|", *(row for row in _rows())),
    )


def _rows() -> Iterator[str]:
    for kind in GROUPS:
        for name, field in kind.model_fields.items():
            yield f"| `{variable(kind, name)}` | {_default(field)} | {field.description} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    match field.default:
        case None:
            return "none"
        case float(number):
            return f"`{number:g}`"
        case default:
            return f"`{default}`"
