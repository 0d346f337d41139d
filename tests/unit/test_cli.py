"""The entry point of the command line."""

import pytest

from patchline.cli import main


def test_a_file_that_may_not_be_read_is_one_line(monkeypatch, capsys):
    def app():
        raise PermissionError(13, "Permission denied", "/srv/pictures")

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(main.logs, "configure", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    line = "patchline: /srv/pictures: permission denied; run it as a user who may use it\n"
    assert capsys.readouterr().err == line
