"""Why MongoDB does not answer is told of every server, without the driver's options."""

from pymongo.errors import ServerSelectionTimeoutError

from shared.store.mongo_driver import translated


def test_each_server_s_reason_is_told_without_the_driver_s_options() -> None:
    options = " (configured timeouts: socketTimeoutMS: 20000.0ms, connectTimeoutMS: 20000.0ms)"
    text = (
        f"one:27017: [Errno 111] Connection refused{options}"
        f",two:27017: certificate expired{options}"
        ", Timeout: 5.0s, Topology Description: <TopologyDescription id: 1>"
    )
    said = str(translated(ServerSelectionTimeoutError(text)))
    assert said == (
        "The store did not answer: one:27017: [Errno 111] Connection refused,"
        "two:27017: certificate expired"
    )
