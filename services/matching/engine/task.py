"""A round as it is handed to another process, and as it comes back."""

from pydantic import TypeAdapter

from services.matching.engine.model import Candidate, Frozen, Policy, Result


class Task(Frozen):
    """All that decides a round: the same task has the same result on any machine."""

    pool: tuple[Candidate, ...]
    policy: Policy
    seed: int


RESULT: TypeAdapter[Result] = TypeAdapter(Result)
