"""Identifiers: random for events, derived for everything that has a natural key."""

import base64
import hashlib
import hmac

import uuid_utils


def new_event_id() -> str:
    """Return a new uuid7. Its order is creation order, not commit order: never poll by it."""
    return str(uuid_utils.uuid7())


def derived_id(prefix: str, *parts: str) -> str:
    """Return the id of the thing that `parts` name; the same parts give the same id.

    Two creations of the same thing then meet in the same document instead of making a second one.
    Anybody who knows the parts can compute the id: use `keyed_id` where that would tell something.
    """
    digest = hashlib.sha256(_message(prefix, *parts)).digest()
    return f"{prefix}_{_base32(digest)}"


def keyed_id(key: bytes, prefix: str, *parts: str) -> str:
    """Return a pseudonym: like `derived_id`, computable only with `key` (HMAC-SHA256)."""
    digest = hmac.digest(key, _message(prefix, *parts), hashlib.sha256)
    return f"{prefix}_{_base32(digest)}"


def _message(*parts: str) -> bytes:
    # With their lengths, no two lists of parts read alike, whatever characters a roster brings.
    return "".join(f"{len(part)}:{part}" for part in parts).encode()


def _base32(digest: bytes) -> str:
    # 130 bits: no collision among a billion ids, in 26 characters that survive any system. They are
    # of the first 17 bytes; base32 takes five at a time.
    return base64.b32encode(digest[:20]).decode().lower()[:26]
