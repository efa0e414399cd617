"""Who may see and do what in matching: the one place where objects are checked."""

from services.matching.domain.pair import Pair
from shared.errors import ForbiddenError, raise_not_found
from shared.http.auth import Principal


def must_coordinate(caller: Principal, program_id: str) -> None:
    """Raise ForbiddenError unless the caller is a coordinator of this program."""
    if not caller.coordinates(program_id):
        raise ForbiddenError("Only a coordinator of this program may do this.")


def sees_all(caller: Principal, program_id: str) -> bool:
    """Return True for a coordinator of this program, False for a participant, who sees their own.

    Raises ForbiddenError for a coordinator of other programs.
    """
    if caller.coordinates(program_id):
        return True
    if not caller.has("participant"):
        raise ForbiddenError("Only a coordinator of this program may do this.")
    return False


def own_participant_id(caller: Principal, pair: Pair) -> str | None:
    """Return under which participant id the caller is a member of the pair, or None."""
    if caller.has("participant"):
        for side in (pair.mentor, *pair.mentees):
            if side.person_id == caller.subject:
                return side.participant_id
    return None


def must_be_member(caller: Principal, pair: Pair) -> str:
    """Return the caller's participant id in the pair; a pair of others does not exist for them.

    Answering is the members' alone: no coordinator accepts for somebody.
    """
    participant_id = own_participant_id(caller, pair)
    if participant_id is None:
        raise_not_found("pair", pair.id)
    return participant_id


def must_see(caller: Principal, pair: Pair) -> None:
    """Raise unless the caller is a member or coordinates the program."""
    if not caller.coordinates(pair.program_id):
        must_be_member(caller, pair)
