"""Composition root of matching."""

from services.matching import api
from services.matching.jobs import jobs
from services.matching.previews import PreviewRunner
from services.matching.repository import DOCUMENTS
from services.matching.rounds import RoundRunner
from services.matching.subscribers import subscriptions
from shared.runtime import Parts, Platform, Service


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    store = platform.store("matching")
    runner = RoundRunner(store, platform.clock)
    previews = PreviewRunner(store, platform.clock)
    parts = Parts(
        name="matching",
        title="Upward matching",
        description="The pool, rounds, proposals, pairs, rotation and the waiting list.",
        documents=DOCUMENTS,
        routers=[api.routes()],
        subscribe=subscriptions(platform.clock),
        # Rounds first and last: terms end into a rotation once the round under way is done.
        jobs=(runner.run_rounds, *jobs(store), runner.run_rounds),
        background=(previews.run_previews,),
    )
    return Service(platform, store, parts)
