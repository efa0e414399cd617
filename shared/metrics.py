"""Every metric of the platform: name, labels, and what to do when it moves."""

from prometheus_client import Counter, Gauge, Histogram

# HTTP ---------------------------------------------------------------------------------------
# Latency by route. The p99 rises: look at the store's conflicts and the outbox's depth first.
HTTP_SECONDS = Histogram(
    "upward_http_request_seconds",
    "Time to answer an HTTP request",
    ["service", "method", "route", "status"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

# Store --------------------------------------------------------------------------------------
# Handlers run again because somebody else wrote first. A steady rate: a hot document.
STORE_CONFLICTS = Counter(
    "upward_store_conflicts_total", "Transactions run again after a stale write", ["service"]
)

# Outbox -------------------------------------------------------------------------------------
# Committed events that the bus has not acknowledged. Grows: the bus is away or refuses a record.
OUTBOX_PENDING = Gauge("upward_outbox_pending", "Committed events not yet on the bus", ["service"])
OUTBOX_AGE_SECONDS = Gauge(
    "upward_outbox_oldest_seconds", "Age of the oldest committed event not on the bus", ["service"]
)
OUTBOX_PUBLISHED = Counter(
    "upward_outbox_published_total", "Events that the bus acknowledged", ["service"]
)
# A publication failed and its key waits. Any: read the log for the topic and the reason.
OUTBOX_FAILURES = Counter(
    "upward_outbox_failures_total", "Publications that failed and are tried again", ["service"]
)

# Consumer -----------------------------------------------------------------------------------
# What became of each record. Received = applied + duplicate + skipped + dead-lettered.
CONSUMED = Counter(
    "upward_consumed_total",
    "Records consumed, by outcome: applied, duplicate, skipped, dead_letter",
    ["service", "outcome"],
)
# The whole batch is tried again: the store or the bus is away.
CONSUMER_RETRIES = Counter(
    "upward_consumer_retries_total", "Batches tried again after a transient error", ["service"]
)
# Polls did nothing but fail. Grows: brokers refuse new clients, too; a right may be missing.
CONSUMER_REPLACED = Counter(
    "upward_consumer_replaced_total", "Kafka clients given up for a new one", ["service"]
)
# Dead letters that nobody has handled. Any: `upward dlq list`.
DEAD_LETTERS_OPEN = Gauge(
    "upward_dead_letters_open", "Dead letters not yet retried or dropped", ["service"]
)
# 1: too many dead letters in a row stopped the consumer. A bad deployment, not bad data.
CONSUMER_STOPPED = Gauge(
    "upward_consumer_stopped", "1 when the dead-letter limit stopped the consumer", ["service"]
)
CONSUMER_LAG_RECORDS = Gauge(
    "upward_consumer_lag_records",
    "Records on the bus that the service has not committed",
    ["service"],
)
# How long the oldest of them has waited, by this process's own clock. Grows: the consumer stands.
CONSUMER_LAG_SECONDS = Gauge(
    "upward_consumer_lag_seconds",
    "Seconds since the oldest record that is not committed was first seen on the bus",
    ["service"],
)

# Scheduler ----------------------------------------------------------------------------------
# A job raised and is tried again at the next tick.
JOB_FAILURES = Counter(
    "upward_job_failures_total", "Scheduled jobs that failed", ["service", "job"]
)

# Matching -----------------------------------------------------------------------------------
ROUND_SECONDS = Histogram(
    "upward_round_seconds",
    "Time to solve a round",
    ["kind"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
