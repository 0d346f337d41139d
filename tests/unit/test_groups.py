"""Groups of test files run in one process of pytest-xdist."""

import re
import subprocess
import sys

import pytest

from tests import groups

FILES = ("tests/unit/test_server_url.py", "tests/unit/test_shutdown.py", "tests/broker/test_rabbitmq.py")
TESTS = "names_the_address or signal_while or previous_handlers or limit_for_messages or not_utf_8_are_decoded"


@pytest.mark.timeout(180)
def test_files_of_a_group_run_in_one_process():
    options = ["--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder", "--verbose", "-k", TESTS]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *FILES]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stdout
    processes = {}
    for process, file in re.findall(r"\[(gw\d)\].* PASSED (\S+?)::", run.stdout):
        processes.setdefault(groups.group_of(file), []).append(process)
    assert {group: len(set(names)) for group, names in processes.items()} == {"unit, second half": 1, "timeouts": 1}
    assert all(len(names) > 3 for names in processes.values())


def test_the_longest_groups_are_first_and_a_file_that_is_named_nowhere_is_a_group():
    assert groups.group_of("tests/system/test_status.py") == "test_status"
    assert groups.group_of("/checkout/tests/parity/test_fit.py") == "parity"
    assert groups.group_of("/checkout/tests/unit/test_config.py") == "unit"
    files = ["tests/system/test_status.py", "tests/system/test_cluster.py", "tests/unit/test_tls.py"]
    assert sorted(files, key=groups.rank) == files[::-1]
