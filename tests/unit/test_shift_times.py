"""When shifts are, also on the days on which clocks change."""

import itertools
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from patchline import config
from patchline.config.console import Console
from patchline.operations import shift_times
from patchline.protocol.errors import SetupError

HOUR = 3_600_000
SECTION = Console(
    time_zone="Europe/Berlin", shifts={"early": "06:00-14:00", "late": "14:00-22:00", "night": "22:00-06:00"}
)
SPRING, AUTUMN = date(2026, 3, 28), date(2026, 10, 24)  # the nights from these days on change the clocks


def ms(*when):
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("day", "since", "hours"),
    [
        (date(2026, 11, 27), ms(2026, 11, 27, 21), 8),
        (SPRING, ms(2026, 3, 28, 21), 7),
        (AUTUMN, ms(2026, 10, 24, 20), 9),
    ],
)
def test_a_night_in_which_clocks_change_is_an_hour_shorter_or_longer(day, since, hours):
    night = shift_times.on(SECTION, "night", day)
    assert (night.since, (night.until - night.since) / HOUR) == (since, hours)


@pytest.mark.parametrize("day", [SPRING, AUTUMN])
def test_shifts_that_follow_each_other_cover_each_moment_once(day):
    after = ms(day.year, day.month, day.day + 2, 12)
    latest = list(itertools.islice(shift_times.ended(SECTION, after), 12))
    assert all(later.since == earlier.until for later, earlier in itertools.pairwise(latest))
    assert latest[0].until <= after < latest[0].until + 8 * HOUR
    assert {one.name for one in latest[:3]} == {"early", "late", "night"}


@pytest.mark.parametrize(
    ("day", "hours", "expected"),
    [
        (date(2026, 3, 29), "02:30-10:00", ms(2026, 3, 29, 1, 30)),  # does not exist: 03:30 of summer
        (date(2026, 10, 25), "02:30-10:00", ms(2026, 10, 25, 0, 30)),  # exists twice: the first, of summer
    ],
)
def test_a_time_that_does_not_exist_is_an_hour_later_and_of_two_the_first_counts(day, hours, expected):
    section = SECTION.model_copy(update={"shifts": {"odd": hours}})
    assert shift_times.on(section, "odd", day).since == expected


def test_a_shift_of_a_whole_day_ends_where_the_next_begins():
    section = SECTION.model_copy(update={"shifts": {"day": "06:00-06:00"}})
    shift = shift_times.on(section, "day", AUTUMN)
    assert shift.until - shift.since == 25 * HOUR
    assert shift_times.on(section, "day", date(2026, 10, 25)).since == shift.until


def test_a_shift_is_found_by_its_name_and_day_and_without_a_day_it_is_the_last_that_has_ended():
    now = ms(2026, 11, 28, 14)  # 15:00 of the plant
    assert str(shift_times.find(SECTION, "early", now)) == "early@2026-11-28"
    assert str(shift_times.find(SECTION, "late", now)) == "late@2026-11-27"
    assert str(shift_times.find(SECTION, "night", now)) == "night@2026-11-27"
    assert shift_times.find(SECTION, "late@2026-11-28", now).since == ms(2026, 11, 28, 13), "it runs"
    assert shift_times.find(SECTION, "early@2024-02-29", now).until == ms(2024, 2, 29, 13)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("noon", "there is no shift 'noon'; known: early, late, night"),
        ("early@2026-11-31", "'2026-11-31' is no day"),
        ("early@yesterday", "'yesterday' is no day"),
        ("early@9999-12-31", "has not begun yet"),
        ("night@9999-12-31", "is no day"),
    ],
)
def test_a_shift_that_cannot_be_is_refused(text, reason):
    with pytest.raises(SetupError, match=reason):
        shift_times.find(SECTION, text, ms(2026, 11, 28, 14))


def test_without_shifts_there_is_none_to_choose_from():
    assert list(shift_times.ended(Console(), ms(2026, 11, 28))) == []
    with pytest.raises(SetupError, match=r"name them in console\.shifts"):
        shift_times.find(Console(), "early", ms(2026, 11, 28))


def test_a_time_zone_that_the_host_does_not_know_is_named():
    with pytest.raises(SetupError, match=r"console\.time_zone.*tzdata"):
        shift_times.zone(Console(time_zone="Europe/Atlantis"))
    assert shift_times.zone(Console()) is None


@pytest.mark.parametrize("line", ["shifts: {early: '6-14'}", "shifts: {early: '06:00-24:00'}", "time_zone: ../etc/x"])
def test_a_shift_or_a_zone_that_is_none_is_refused_by_the_configuration(tmp_path, line):
    text = Path("config.yaml").read_text()
    head = text[: text.index("\nconsole:")]
    categories = text[text.index("\ncategories:") :]
    (tmp_path / "config.yaml").write_text(f"{head}\nconsole: {{{line}}}\n{categories}")
    with pytest.raises(SetupError, match=r"console\.(shifts|time_zone)"):
        config.load(tmp_path / "config.yaml")
