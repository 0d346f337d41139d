#!/bin/sh
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist=loadgroup` does not keep the tests of an `xdist_group` in one process.
# xdist appends the group to `item._nodeid`, and this pytest takes the name of a test from elsewhere. Nothing warns: each
# test is sent to any process, and the fixtures of a module are set up in all of them.
# Reported as https://github.com/pytest-dev/pytest-xdist/issues/1386.
#
# Seen: the tests of one group ran in gw0 gw1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pytest==9.2.0 pytest-xdist==3.8.0
cat > "$folder/test_group.py" <<'PYTHON'
import time

import pytest


@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(8))
def test_one_of_a_group(number):
    time.sleep(0.2)
PYTHON
cd "$folder"
processes=$(env/bin/python -m pytest -p no:cacheprovider --numprocesses=2 --dist=loadgroup --verbose test_group.py |
    grep -o '^\[gw[0-9]*\]' | tr -d '[]' | sort -u | tr '\n' ' ')
echo "the tests of one group ran in $processes"
[ "$processes" = "gw0 gw1 " ]
