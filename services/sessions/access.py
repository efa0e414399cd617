"""Who may see and do what in sessions: the one place where objects are checked."""

from datetime import UTC, datetime
from typing import NoReturn

from services.sessions.domain.pair import Member, PairRecord
from services.sessions.domain.session import Session
from shared.errors import ForbiddenError, raise_not_found
from shared.http.auth import Principal
from shared.store.port import Condition, Contains, MoreThan, Where

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def must_be_member(caller: Principal, pair: PairRecord, asked: PairRecord | Session) -> Member:
    """Return the caller's membership; raise NotFoundError for what was asked for without one."""
    member = _membership(caller, pair)
    if member is None:
        _hide(asked)
    return member


def must_be_mentee(pair: PairRecord, member: Member, what: str) -> None:
    """Raise ForbiddenError for the mentor: `what` is in the mentees' words alone."""
    if not pair.is_mentee(member.participant_id):
        raise ForbiddenError(f"Only a mentee of the pair writes {what}.")


def sees_words(caller: Principal, pair: PairRecord, asked: PairRecord | Session) -> bool:
    """Return whether the caller sees what members wrote: members do, a coordinator does not.

    Raises NotFoundError for anybody else, and for a coordinator while the pair's members are
    unknown.
    """
    if _membership(caller, pair) is not None:
        return True
    if not (caller.coordinates(pair.program_id) and pair.members):
        _hide(asked)
    return False


def visible_pairs(caller: Principal, program_id: str | None) -> Where:
    """Return the condition for the pairs of a list: a coordinator's program, or the caller's own.

    Leaves out pairs whose members are unknown: they have no start. Raises ForbiddenError for a
    coordinator who names no program of theirs.
    """
    where: dict[str, Condition] = {"started_at": MoreThan(_LONG_AGO)}
    if program_id is not None:
        where["program_id"] = program_id
    if program_id is not None and caller.coordinates(program_id):
        return where
    if not caller.has("participant"):
        raise ForbiddenError("Name a program that you coordinate.")
    return where | {"person_ids": Contains(caller.subject)}


def _membership(caller: Principal, pair: PairRecord) -> Member | None:
    return pair.member(caller.subject) if caller.has("participant") else None


def _hide(asked: PairRecord | Session) -> NoReturn:
    raise_not_found("session" if isinstance(asked, Session) else "pair", asked.id)
