"""Liveness and readiness that tell the truth: each trouble in words, none means well."""

from typing import Protocol


class Health(Protocol):
    """What the probes ask."""

    def live(self) -> list[str]:
        """Return what only a restart would mend. Never asks the store or the bus."""
        ...

    async def ready(self) -> list[str]:
        """Return why the service should get no traffic now."""
        ...
