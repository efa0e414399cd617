"""Who may see a program's figures: the one place where that is checked."""

from shared.errors import ForbiddenError
from shared.http.auth import Principal


def must_analyze(caller: Principal, program_id: str) -> None:
    """Raise ForbiddenError unless the caller is an analyst or a coordinator of this program.

    Asked before whether there is such a program, so that the answer does not tell.
    """
    if not caller.analyzes(program_id):
        raise ForbiddenError("Your token does not name this program.")
