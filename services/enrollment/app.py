"""Composition root of enrollment."""

from services.enrollment import api
from services.enrollment.repository import DOCUMENTS
from shared.ids import keyed_id
from shared.messaging.consumer import Consumer
from shared.runtime import Parts, Platform, Service


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    key = platform.secret("enrollment", "pseudonyms")
    parts = Parts(
        name="enrollment",
        title="Upward enrollment",
        description="The roster, programs, and who takes part: by their own choice alone.",
        documents=DOCUMENTS,
        routers=[api.routes(lambda employee_id: keyed_id(key, "p", employee_id))],
        subscribe=_subscribe,
        body_limits={"/roster/imports": api.ROSTER_BYTES},
    )
    return Service(platform, platform.store("enrollment"), parts)


def _subscribe(_consumer: Consumer) -> None:
    """Enrollment owns the facts that others follow, and follows nobody."""
