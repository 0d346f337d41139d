"""The test bench of a gate or a console, for the files that name its class as BENCH."""

import pytest


@pytest.fixture
def bench(request, tmp_path):
    bench = request.module.BENCH(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def serving(bench):
    """A bench whose gate acts."""
    bench.pass_time(3.0)
    return bench
