"""The bus benchmark measures what it says, with few events here."""

from deploy.bench.bus import bench_bus


async def test_the_bus_benchmark_relates_the_bus_to_bare_sqlite() -> None:
    result = await bench_bus(events=60, latency_events=20, repetitions=1)
    assert (result.events, result.latency_events, result.repetitions) == (60, 20, 1)
    assert result.bus_events_per_second > 0
    assert result.sqlite_events_per_second > 0
    assert 0 < result.bus_p50_ms <= result.bus_p99_ms
    assert 0 < result.sqlite_p50_ms <= result.sqlite_p99_ms
    ratio = result.bus_events_per_second / result.sqlite_events_per_second
    assert abs(result.throughput_ratio - ratio) < 1e-9
