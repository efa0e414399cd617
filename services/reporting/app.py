"""Composition root of reporting."""

from services.reporting import api, pages
from services.reporting.repository import DOCUMENTS
from services.reporting.subscribers import subscribe
from shared.runtime import Parts, Platform, Service


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    parts = Parts(
        name="reporting",
        title="Upward reporting",
        description="How programs do: figures of groups, never of a person.",
        documents=DOCUMENTS,
        routers=[api.routes()],
        subscribe=subscribe,
        public_routers=[pages.page_routes()],
    )
    return Service(platform, platform.store("reporting"), parts)
