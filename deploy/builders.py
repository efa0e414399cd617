"""The five services and what builds each: the one place that knows all of them."""

from collections.abc import Callable, Mapping

from services.enrollment.app import build as build_enrollment
from services.feedback.app import build as build_feedback
from services.matching.app import build as build_matching
from services.reporting.app import build as build_reporting
from services.sessions.app import build as build_sessions
from shared.runtime import Platform, Service

BUILDERS: Mapping[str, Callable[[Platform], Service]] = {
    "enrollment": build_enrollment,
    "matching": build_matching,
    "sessions": build_sessions,
    "feedback": build_feedback,
    "reporting": build_reporting,
}
