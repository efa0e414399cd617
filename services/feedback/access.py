"""Who may see and do what in feedback: the one place where objects are checked.

Surveys and responses are their person's alone. A coordinator, the partner and a stranger get the
same answer as for an id that does not exist.
"""

from services.feedback.domain import Response, Survey
from shared.errors import raise_not_found
from shared.http.auth import Principal


def must_be_own_survey(caller: Principal, survey: Survey) -> None:
    """Raise NotFoundError unless the survey asks the caller."""
    if not _is(caller, survey.person_id):
        raise_not_found("survey", survey.id)


def must_be_own_response(caller: Principal, response: Response) -> None:
    """Raise NotFoundError unless the caller gave this response."""
    if not _is(caller, response.person_id):
        raise_not_found("response", response.id)


def _is(caller: Principal, person_id: str) -> bool:
    return caller.has("participant") and caller.subject == person_id
