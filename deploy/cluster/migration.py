"""Creating what a service needs in MongoDB, at deploy and not in requests."""

from deploy.cluster.platform import ClusterPlatform


async def migrate(service: str) -> list[str]:
    """Create missing collections and indexes; return what was done, in words.

    Raises InvalidInputError for a bad setting and StoreUnavailableError.
    """
    platform = ClusterPlatform(service)
    store = platform.store(service)
    try:
        return await store.migrate(platform.service.documents)
    finally:
        await store.close()
