"""JSON logs with the links of the work under way; no personal data, no free text of people."""

import logging
import sys

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from shared.tracing import current_trace


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    trace = current_trace()
    if trace.correlation_id:
        event["correlation_id"] = trace.correlation_id
    if trace.traceparent:
        event["trace_id"] = trace.traceparent[3:35]
    return event


def configure_logging(level: str = "WARNING") -> None:
    """Write one JSON object a line to standard error, from `level` up."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(service: str) -> FilteringBoundLogger:
    """Return a logger that names its service in every line.

    Configures logging with its defaults if nobody has: structlog's own print local variables, which
    may be personal.
    """
    if not structlog.is_configured():
        configure_logging()
    logger: FilteringBoundLogger = structlog.get_logger(service=service)
    return logger
