"""What makes a test's Kafka broker a guarded one: TLS, users with passwords, rights by ACL."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOST = "127.0.0.1"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_LISTENER = "listener.name.sasl_ssl"


@dataclass(frozen=True)
class Guard:
    """A listener with TLS and SCRAM-SHA-512, and nothing allowed but by ACL.

    The broker itself talks over a second listener, on which everybody may do everything.
    """

    folder: Path
    users: Mapping[str, str]  # passwords by name
    admin: str  # the user who may do everything

    @property
    def ca_file(self) -> Path:
        """The certificate that clients are to trust."""
        return self.folder / "ca.pem"

    def settings(self, port: int, controller: int, internal: int) -> dict[str, str]:
        """Return the broker's settings, and write the files that they name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = self.folder / "broker.pem"
        key, certificate = _self_signed()
        keys.write_bytes(key + certificate)
        self.ca_file.write_bytes(certificate)
        advertised = f"SASL_SSL://{_HOST}:{port},INTERNAL://{_HOST}:{internal}"
        return {
            "listeners": f"{advertised},CONTROLLER://{_HOST}:{controller}",
            "advertised.listeners": advertised,
            "inter.broker.listener.name": "INTERNAL",
            "listener.security.protocol.map": (
                "CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,SASL_SSL:SASL_SSL"
            ),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            f"{_LISTENER}.scram-sha-512.sasl.jaas.config": _SCRAM,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keys),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{self.admin}",
        }

    def format_options(self) -> list[str]:
        """Return what the storage tool is told, so that the users are there from the start."""
        return [
            option
            for name, password in self.users.items()
            for option in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
        ]


def _self_signed() -> tuple[bytes, bytes]:
    """Return a private key and its certificate for the loopback address, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker of a test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_HOST))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
