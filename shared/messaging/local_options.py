"""The options of Kafka's clients that have no meaning on a local log."""

from collections.abc import Collection, Mapping

CONNECTION_OPTIONS = frozenset(
    {
        "api_version",
        "bootstrap_servers",
        "connections_max_idle_ms",
        "loop",
        "metadata_max_age_ms",
        "request_timeout_ms",
        "retry_backoff_ms",
        "sasl_kerberos_domain_name",
        "sasl_kerberos_service_name",
        "sasl_mechanism",
        "sasl_oauth_token_provider",
        "sasl_plain_password",
        "sasl_plain_username",
        "security_protocol",
        "ssl_context",
    }
)


def refuse_unknown_options(
    options: Mapping[str, object], ignored: Collection[str], owner: str
) -> None:
    """Raise TypeError if `options` has one that `owner` neither uses nor knowingly ignores."""
    unknown = sorted(options.keys() - ignored)
    if unknown:
        msg = f"{owner} got unexpected keyword arguments: {', '.join(unknown)}"
        raise TypeError(msg)
