"""The errors that services raise: each knows its HTTP status and its stable code."""

from typing import NoReturn


class UpwardError(Exception):
    """A refusal that a caller can read: `code` is stable, `detail` is for people.

    `field` names the offending input as a dotted path, where there is one.
    """

    status = 500
    code = "internal"
    title = "Something went wrong"

    def __init__(self, detail: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        if code is not None:
            self.code = code


class InvalidInputError(UpwardError):
    """The request can never succeed as it is: a field breaks a rule."""

    status = 422
    code = "invalid_input"
    title = "The input breaks a rule"


class UnauthenticatedError(UpwardError):
    """No bearer token, or one that does not verify."""

    status = 401
    code = "unauthenticated"
    title = "A valid bearer token is needed"


class ForbiddenError(UpwardError):
    """The caller is known, and may not do this."""

    status = 403
    code = "forbidden"
    title = "Not allowed"


class NotFoundError(UpwardError):
    """There is no such object, or none that the caller may know of."""

    status = 404
    code = "not_found"
    title = "Not found"


class RuleViolationError(UpwardError):
    """The object's present state does not allow this transition."""

    status = 409
    code = "rule_violation"
    title = "The present state does not allow this"


class TooLargeError(UpwardError):
    """The body is larger than the route accepts."""

    status = 413
    code = "too_large"
    title = "The body is too large"


class UnsupportedMediaTypeError(UpwardError):
    """The body's content type is not one that the route reads."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported content type"


class UnavailableError(UpwardError):
    """The store or the bus does not answer; the same request may succeed later."""

    status = 503
    code = "unavailable"
    title = "Try again later"


class StoreUnavailableError(UnavailableError):
    """The store does not answer: transient, so retried and never dead-lettered."""

    code = "store_unavailable"


class OverloadedError(UnavailableError):
    """More is asked or waits than the service can do now; it says so instead of queueing it."""

    code = "overloaded"


class LeaseLostError(UnavailableError):
    """Another process of the service has taken the lease over: what was done under it is its own to
    repeat.
    """

    code = "lease_lost"


class StaleWriteError(UpwardError):
    """Somebody else wrote the document after it was loaded; `Store.transact` runs again.

    Reaches a caller only when the retries are used up.
    """

    status = 503
    code = "conflict"
    title = "Too many concurrent changes; try again"


class UniqueViolationError(UpwardError):
    """A declared unique index already holds this value."""

    status = 409
    code = "already_exists"
    title = "Already exists"


def code_of(error: Exception) -> str:
    """Return the stable code of an error, whatever was raised: `internal` for one without."""
    return error.code if isinstance(error, UpwardError) else UpwardError.code


def raise_not_found(kind: str, object_id: str) -> NoReturn:
    """Raise the one NotFoundError that does not tell absence from invisibility."""
    detail = f"There is no {kind} {object_id!r} that you may see."
    raise NotFoundError(detail)
