"""The limits of a container, with control groups in a folder of the test."""

import pytest

from patchline.runtime import container

GB = 10**9


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.delenv(container.SHARE_VARIABLE, raising=False)


@pytest.fixture
def limits(tmp_path):
    """Write control groups and read the limits of a process."""

    def read(process, files):
        (tmp_path / "self").write_text(process)
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)
        return container.read(tmp_path / "self", tmp_path / "groups")

    return read


@pytest.mark.parametrize(
    ("process", "files", "cpus", "memory"),
    [
        ("0::/\n", {}, 64, None),
        ("0::/\n", {"cpu.max": "50000 100000\n", "memory.max": "1000000000\n"}, 1, GB),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, 64, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3, None),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "memory.max": f"{4 * GB}"},
            4,
            4 * GB,
        ),
        ("0::/a/b\n", {"a/b/memory.max": f"{GB}", "a/memory.max": f"{2 * GB}"}, 64, GB),
        ("0::/not/here\n", {"cpu.max": "200000 100000"}, 2, None),
        ("0::/../other\n", {"cpu.max": "200000 100000"}, 64, None),
    ],
)
def test_the_limits_of_version_2_hold_for_the_group_and_its_parents(limits, process, files, cpus, memory):
    assert limits(process, files) == container.Limits(cpus, memory)


def test_the_limits_of_version_1_are_read(limits):
    files = {
        "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
        "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        "memory/docker/abc/memory.limit_in_bytes": "2000000000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    process = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
    assert limits(process, files) == container.Limits(1, 2 * GB)
    assert limits(process, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1"}).cpus == 64


def test_processes_of_one_supervisor_share_the_limits(limits, monkeypatch):
    monkeypatch.setenv(container.SHARE_VARIABLE, "2")
    assert limits("0::/\n", {"cpu.max": "600000 100000", "memory.max": f"{4 * GB}"}) == container.Limits(3, 2 * GB)


def test_a_machine_without_control_groups_has_its_cores(tmp_path):
    assert container.read(tmp_path / "missing", tmp_path) == container.Limits(64, None)
