"""Composition root of feedback."""

from services.feedback import api
from services.feedback.domain import Pseudonyms
from services.feedback.repository import DOCUMENTS
from services.feedback.subscribers import subscribe
from shared.runtime import Parts, Platform, Service


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    pseudonyms = Pseudonyms(platform.secret("feedback", "pseudonyms"))
    parts = Parts(
        name="feedback",
        title="Upward feedback",
        description="Surveys fall due and are answered; what somebody says stays theirs.",
        documents=DOCUMENTS,
        routers=[api.routes(pseudonyms)],
        subscribe=subscribe,
    )
    return Service(platform, platform.store("feedback"), parts)
