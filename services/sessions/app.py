"""Composition root of sessions."""

from services.sessions import api
from services.sessions.repository import DOCUMENTS
from services.sessions.subscribers import subscribe
from shared.runtime import Parts, Platform, Service


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    parts = Parts(
        name="sessions",
        title="Upward sessions",
        description="Ground rules, agendas and meetings of a pair, and what both sides learned.",
        documents=DOCUMENTS,
        routers=[api.routes()],
        subscribe=subscribe,
    )
    return Service(platform, platform.store("sessions"), parts)
