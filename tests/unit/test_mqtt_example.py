"""The program of the example that sends pictures by MQTT: what it says of a wrong start. It connects to nothing."""

import pytest

from docs.examples import mqtt_camera

URL, TOPIC = "mqtt://device:sesame@broker.plant", "cameras/press-3/gasket"


def test_a_good_start_is_taken(tmp_path):
    options = mqtt_camera.parse([str(tmp_path), URL, TOPIC])
    assert (options.folder, options.url, options.topic) == (tmp_path, URL, TOPIC)


@pytest.mark.parametrize(
    ("folder", "url", "topic", "text"),
    [
        ("missing", URL, TOPIC, "missing: no such folder; make it"),
        (".", "device:sesame@broker.plant:1883", TOPIC, "the url must begin with mqtt:// or mqtts://"),
        (".", "broker.plant", TOPIC, "the url must begin with mqtt:// or mqtts://"),
        (".", URL, "cameras/#", "no topic; write words between slashes"),
        (".", URL, "/cameras", "no topic; write words between slashes"),
    ],
)
def test_what_cannot_work_is_said_at_the_start_without_the_password(tmp_path, capsys, folder, url, topic, text):
    with pytest.raises(SystemExit):
        mqtt_camera.parse([str(tmp_path / folder), url, topic])
    said = capsys.readouterr().err
    assert text in said
    assert "sesame" not in said


def test_a_file_whose_name_is_no_picture_is_said_once_and_the_others_are_sent(tmp_path, capsys):
    saved = mqtt_camera.save(tmp_path, "p7", b"pixels")
    for name in ("part-1.png", "1800000000.p8.picture", "1800000000000.p.8.picture", "1800000000000.p9.part"):
        (tmp_path / name).write_bytes(b"pixels")
    strangers = set()
    for _ in range(2):
        assert list(mqtt_camera.pictures(tmp_path, strangers)) == [saved]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert all("its name must be TIME.PART.picture, as" in line for line in said)
