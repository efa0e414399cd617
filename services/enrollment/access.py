"""Who may see and do what in enrollment: the one place where objects are checked."""

from services.enrollment.domain import Participant
from shared.errors import ForbiddenError, raise_not_found
from shared.http.auth import Principal


def must_coordinate(caller: Principal, program_id: str) -> None:
    """Raise ForbiddenError unless the caller is a coordinator of this program."""
    if not caller.coordinates(program_id):
        raise ForbiddenError("Only a coordinator of this program may do this.")


def must_be_own(caller: Principal, participant: Participant) -> None:
    """Raise unless the enrollment is the caller's own.

    Enrolling, changing and leaving are the person's alone: no coordinator, manager or HR may.
    """
    if not (caller.has("participant") and caller.subject == participant.person_id):
        raise_not_found("participant", participant.id)


def must_see(caller: Principal, participant: Participant) -> None:
    """Raise unless the caller is the person or coordinates the program."""
    if not caller.coordinates(participant.program_id):
        must_be_own(caller, participant)
