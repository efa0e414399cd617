"""JSON logs with the links of the work under way; no personal data, no free text of people."""

import logging
import sys
from collections import Counter
from collections.abc import Callable

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from shared.clock import monotonic
from shared.tracing import current_trace

_QUIET_SECONDS = 10.0
# Some libraries put values into the texts themselves: those are not kept for good.
_TEXTS = 1000


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


class LibraryLines(logging.Handler):
    """Writes what libraries log as lines like ours.

    A client whose servers are away says so ten times a second, for as long as they are: of lines
    made from one text, one is written in ten seconds, with the number of those left out since. What
    tells of an exception is always written.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._now = now
        self._written: dict[tuple[str, str], float] = {}
        self._left_out = Counter[tuple[str, str]]()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless its like was written a moment ago."""
        try:
            self._write(record)
        except Exception:
            # Whoever logs must not fail for it.
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        text, now = (record.name, str(record.msg)), self._now()
        written = self._written.get(text, -_QUIET_SECONDS)
        if now - written < _QUIET_SECONDS and record.exc_info is None:
            self._left_out[text] += 1
            return
        if len(self._written) >= _TEXTS:
            self._written.clear()
            self._left_out.clear()
        self._written[text] = now
        more = {"left_out": left_out} if (left_out := self._left_out.pop(text, 0)) else {}
        structlog.get_logger(library=record.name).log(
            # Other levels than these five have no name here.
            max(min(record.levelno // 10 * 10, logging.CRITICAL), logging.DEBUG),
            record.getMessage(),
            exc_info=record.exc_info,
            **more,
        )


def take_over_libraries(level: str) -> None:
    """Write the lines of every library that logs, as `configure_logging` says, from `level` up.

    Never those below a warning: clients of stores and brokers write names and passwords into them.
    """
    lowest = max(logging.WARNING, logging.getLevelNamesMapping()[level])
    logging.basicConfig(level=lowest, handlers=[LibraryLines()], force=True)


def get_logger(service: str) -> FilteringBoundLogger:
    """Return a logger that names its service in every line.

    Configures logging with its defaults if nobody has: structlog's own print local variables, which
    may be personal.
    """
    if not structlog.is_configured():
        configure_logging()
    logger: FilteringBoundLogger = structlog.get_logger(service=service)
    return logger
