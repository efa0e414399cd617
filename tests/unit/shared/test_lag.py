"""Consumer lag from offsets: how many records, and for how long the oldest has waited."""

from aiokafka import TopicPartition

from shared.messaging.lag import Lag

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Looks:
    """A lag, looked at by a clock of the test's own."""

    def __init__(self) -> None:
        self.time = 100.0
        self.lag = Lag(lambda: self.time)

    def at(self, time: float, a: tuple[int, int], b: tuple[int, int] = (0, 0)) -> Lag:
        """Look at (end, committed) of both partitions."""
        self.time = time
        self.lag.see({A: a[0], B: b[0]}, {A: a[1], B: b[1]})
        return self.lag


def test_who_has_committed_everything_has_no_lag() -> None:
    lag = Looks().at(100, (5, 5), (7, 7))
    assert (lag.records, lag.seconds) == (0, 0)


def test_lag_in_seconds_grows_while_the_consumer_stands_still() -> None:
    looks = Looks()
    looks.at(100, (5, 5))
    looks.at(110, (8, 5))
    lag = looks.at(130, (9, 5))
    assert (lag.records, lag.seconds) == (4, 20)


def test_lag_in_seconds_is_that_of_the_oldest_record_left() -> None:
    looks = Looks()
    looks.at(100, (5, 0))
    looks.at(110, (8, 2))
    lag = looks.at(120, (8, 6))
    assert (lag.records, lag.seconds) == (2, 10)
    lag = looks.at(125, (8, 8))
    assert (lag.records, lag.seconds) == (0, 0)


def test_the_slowest_partition_decides() -> None:
    looks = Looks()
    looks.at(100, (5, 5), (9, 1))
    lag = looks.at(107, (6, 5), (9, 2))
    assert (lag.records, lag.seconds) == (8, 7)


def test_a_long_standstill_keeps_its_beginning_in_bounded_memory() -> None:
    looks = Looks()
    for number in range(5000):
        looks.at(100 + number, (number + 1, 0))
    assert looks.lag.seconds == 4999
    assert sum(len(samples) for samples in looks.lag._seen.values()) < 1000


def test_what_could_not_be_looked_at_may_have_waited_since_the_last_look() -> None:
    looks = Looks()
    looks.at(100, (5, 5))
    looks.time = 130
    looks.lag.miss()
    assert (looks.lag.records, looks.lag.seconds) == (0, 30)
    assert looks.at(140, (5, 5)).seconds == 0


def test_what_waited_before_goes_on_waiting_while_nobody_can_look() -> None:
    looks = Looks()
    looks.at(100, (6, 5))
    looks.at(120, (6, 5))
    looks.time = 130
    looks.lag.miss()
    assert looks.lag.seconds == 30
    assert looks.at(140, (6, 5)).seconds == 40
