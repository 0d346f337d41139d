"""The environment of the SDK, from its scripts or from its folder."""

import os

import pytest

from patchline.devices import sdk_environment
from patchline.protocol.errors import SetupError
from tests.standin import installation

BASE = {"PATH": os.environ["PATH"], "HOME": "/home/worker", "PWD": "/here"}


def read(*scripts, **variables):
    return sdk_environment.read(BASE | {"PATCHLINE_ASCEND_SET_ENV": ":".join(map(str, scripts))} | variables)


@pytest.fixture
def script(tmp_path):
    def write(text, name="set_env.sh"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_the_scripts_of_cann_and_of_the_sdk_add_up_and_leave_no_empty_entry(tmp_path):
    cann, home = installation.install_cann(tmp_path), installation.install(tmp_path)
    environment = read(cann, home / "set_env.sh")
    assert environment["MX_SDK_HOME"] == str(home)
    libraries = [home / "lib", home / "opensource/lib", home / "opensource/lib64", cann.parent / "lib64"]
    assert environment["LD_LIBRARY_PATH"] == ":".join(map(str, libraries))
    assert environment["PYTHONPATH"] == f"{home}/python:{cann.parent}/python/site-packages"
    assert environment["GST_PLUGIN_PATH"] == f"{home}/opensource/lib/gstreamer-1.0:{home}/lib/plugins"
    assert environment["ASCEND_OPP_PATH"] == f"{cann.parent}/opp"


def test_our_own_environment_stays_as_it_is_and_the_shell_leaves_no_trace(tmp_path, monkeypatch):
    home = installation.install(tmp_path)
    monkeypatch.setenv("PATCHLINE_ASCEND_SET_ENV", str(home / "set_env.sh"))
    before = dict(os.environ)
    environment = read(home / "set_env.sh")
    assert dict(os.environ) == before
    assert (environment["PWD"], environment["HOME"], environment.get("SHLVL")) == ("/here", "/home/worker", None)


def test_mx_sdk_home_alone_sets_the_same_search_paths_as_its_script(tmp_path):
    home = installation.install(tmp_path)
    by_script = read(home / "set_env.sh")
    by_folder = sdk_environment.read(BASE | {"MX_SDK_HOME": str(home)})
    names = ("MX_SDK_HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "GST_PLUGIN_PATH", "GST_PLUGIN_SCANNER")
    assert {name: by_folder[name] for name in names} == {name: by_script[name] for name in names}


def test_mx_sdk_home_is_used_if_only_the_script_of_cann_is_listed(tmp_path):
    cann, home = installation.install_cann(tmp_path), installation.install(tmp_path)
    environment = read(cann, MX_SDK_HOME=str(home))
    assert environment["PYTHONPATH"] == f"{home}/python:{cann.parent}/python/site-packages"


def test_without_the_sdk_only_empty_entries_go():
    environment = sdk_environment.read(BASE | {"LD_LIBRARY_PATH": ":/a::/b:", "PYTHONPATH": "::"})
    assert environment == BASE | {"LD_LIBRARY_PATH": "/a:/b"}


def test_values_with_line_ends_and_other_encodings_survive(script):
    path = script("export MX_SDK_HOME=/sdk PYTHONPATH=/sdk/python TWO_LINES=$'a\\nb=c' BYTES=$'\\xff'")
    environment = read(path)
    assert environment["TWO_LINES"] == "a\nb=c"
    assert os.fsencode(environment["BYTES"]) == b"\xff"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo no driver >&2; return 3", r"set_env\.sh: ended with 3 \(no driver\)"),
        ("exit 0", r"set_env\.sh: ended with 0 \(it printed nothing\)"),
        ("cd /nowhere", r"ended with 1 \(.*/nowhere"),
        ("echo incomplete", r"no script sets MX_SDK_HOME; add the set_env.sh of mxVision.*printed: incomplete"),
    ],
)
def test_a_script_that_fails_is_one_line(script, text, message):
    with pytest.raises(SetupError, match=message) as error:
        read(script(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["/nowhere/set_env.sh", "set_env.sh"])
def test_a_missing_script_is_named(path):
    with pytest.raises(SetupError, match=f"PATCHLINE_ASCEND_SET_ENV: {path}: is not the absolute path of a file"):
        read(path)


def test_a_script_that_hangs_is_ended(script, monkeypatch):
    monkeypatch.setattr(sdk_environment, "_TIMEOUT_S", 0.2)
    with pytest.raises(SetupError, match="did not run to its end"):
        read(script("exec sleep 60"))
