"""Groups of test files for pytest-xdist: a group runs in one process, and the longest start first.

The option `--dist=loadgroup` is not used: with pytest 9.2 it puts no tests together
(pytest-dev/pytest-xdist, issue 1386).
"""

from pathlib import PurePath

from xdist.scheduler import LoadScopeScheduling

# No two files of a group run at the same time. Those of these folders compute and hardly wait. The unit tests are two
# groups, or they would run alone at the end.
COMPUTING_FOLDERS = ("parity", "unit")
SECOND_HALF_OF_UNIT = "test_g"
# Files that wait for short timeouts, and files that use the machine as a whole (mounts, containers, the checkout).
FILES_TOGETHER = {
    "timeouts": ("test_line", "test_faults", "test_alarm", "test_slow_disk", "test_cluster", "test_rabbitmq"),
    "machine": ("test_systemd", "test_operations"),
}
GROUP_OF = {name: group for group, names in FILES_TOGETHER.items() for name in names}
# So that none of them runs alone at the end. The others follow in their order.
LONGEST_FIRST = (
    *COMPUTING_FOLDERS,
    "unit, second half",
    "timeouts",
    "test_gate_standby",
    "test_gate",
    "test_network_camera",
    "machine",
    "test_publisher",
    "test_watched_folder",
    "test_console_browser",
    "test_up",
)


def group_of(file):
    """Return the name of the group of a test file. A file that is named nowhere is a group."""
    path = PurePath(file)
    folder = path.parent.name
    if folder == "unit" and path.stem >= SECOND_HALF_OF_UNIT:
        return "unit, second half"
    return folder if folder in COMPUTING_FOLDERS else GROUP_OF.get(path.stem, path.stem)


def rank(file):
    """Return the place of a test file in the order of the run."""
    group = group_of(file)
    return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)


class GroupScheduling(LoadScopeScheduling):
    """Sends a whole group to one process. Needs `--no-loadscope-reorder` to keep the order."""

    def _split_scope(self, nodeid):
        return group_of(nodeid.split("::")[0])
