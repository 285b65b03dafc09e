"""When a recurring timer comes again, over both changes of the clocks; and what is refused, at once, by name."""
# ruff: noqa: DTZ001  (local times have no zone)

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sagalog import DefinitionError, Saga, SetTimer, starts
from sagalog.decision.entries import Timer
from sagalog.decision.record import decode_record
from sagalog.definition.recurring import LATE, Rule, following, local_moment, next_after
from sagalog.testing import Scenario

cronsim = pytest.importorskip("cronsim", reason="an environment from before it was pinned: make test brings it")
NIGHTLY = Rule(cron="30 2 * * *", zone="Europe/Berlin")


def comes(rule: Rule, moment: datetime, times: int) -> list[str]:
    """The next moments of a rule, each found from the one before alone, as its clocks show them."""
    found = []
    for _ in range(times):
        moment = next_after(rule, moment)  # type: ignore[assignment]
        found.append(moment.astimezone(ZoneInfo(rule.zone or "UTC")).isoformat())
    return found


def test_a_fixed_time_that_the_clocks_jump_over_comes_when_they_jump() -> None:
    assert comes(NIGHTLY, datetime(2030, 3, 30, 12, tzinfo=UTC), 2) == [
        "2030-03-31T03:00:00+02:00",
        "2030-04-01T02:30:00+02:00",
    ]


def test_a_fixed_time_that_the_clocks_show_twice_comes_once_the_first_time() -> None:
    assert comes(NIGHTLY, datetime(2030, 10, 26, 12, tzinfo=UTC), 2) == [
        "2030-10-27T02:30:00+02:00",
        "2030-10-28T02:30:00+01:00",
    ]


def test_asked_in_the_hour_that_the_clocks_show_twice_it_never_comes_in_the_past() -> None:
    second = datetime(2030, 10, 27, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    assert comes(NIGHTLY, second, 1) == ["2030-10-28T02:30:00+01:00"]


def test_a_rule_for_every_hour_comes_each_hour_that_passes() -> None:
    hourly = Rule(cron="30 * * * *", zone="Europe/Berlin")
    assert comes(hourly, datetime(2030, 3, 31, 0, 0, tzinfo=UTC), 3) == [
        "2030-03-31T01:30:00+01:00",
        "2030-03-31T03:30:00+02:00",
        "2030-03-31T04:30:00+02:00",
    ]
    assert comes(hourly, datetime(2030, 10, 27, 0, 0, tzinfo=UTC), 3) == [
        "2030-10-27T02:30:00+02:00",
        "2030-10-27T02:30:00+01:00",
        "2030-10-27T03:30:00+01:00",
    ]


@settings(max_examples=150, deadline=None)
@given(
    rule=st.sampled_from(["0,30 2 * * *", "0 0 * * SUN", "59 23 L * *", "15 1-3 * * *", "5/20 0,2 * * *"]),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "UTC"]),
    start=st.datetimes(datetime(2026, 1, 1), datetime(2031, 1, 1)),
)
def test_found_one_by_one_the_moments_are_those_of_one_run_of_the_library(
    rule: str, zone: str, start: datetime
) -> None:
    begin = start.replace(tzinfo=UTC)
    run = cronsim.CronSim(rule, begin.astimezone(ZoneInfo(zone)))
    plain = [moment for _ in range(12) if (moment := next(run).astimezone(UTC)) > begin]
    moment, found = begin, []
    for _ in plain:
        moment = next_after(Rule(cron=rule, zone=zone), moment)  # type: ignore[assignment]
        found.append(moment)
    assert found == sorted(set(found)), "never twice, never back"
    assert found == list(dict.fromkeys(plain))[: len(found)]


CHANGES = [  # of clocks, in UTC: by an hour and by half of one, at full hours and between them, over midnight, by a day
    ("Europe/Berlin", datetime(2030, 3, 31, 1)),
    ("Europe/Berlin", datetime(2030, 10, 27, 1)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30)),
    ("Pacific/Chatham", datetime(2026, 4, 4, 14)),
    ("Pacific/Chatham", datetime(2026, 9, 26, 14)),
    ("America/Nuuk", datetime(2026, 3, 29, 1)),
    ("America/Havana", datetime(2026, 3, 8, 5)),
    ("America/Havana", datetime(2026, 11, 1, 5)),
    ("Asia/Beirut", datetime(2026, 3, 28, 22)),
    ("America/Goose_Bay", datetime(2007, 3, 11, 3, 31)),
    ("Asia/Pyongyang", datetime(2018, 5, 4, 15)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10)),
]
MINUTES = {"*": range(60), "*/15": range(0, 60, 15), "*/7": range(0, 60, 7), "*/45": range(0, 60, 45), "30": (30,)}
HOURS = {"*": range(24), "*/2": range(0, 24, 2), "0-3": range(4), "1,2": (1, 2), "23": (23,)}
WEEKDAYS = {"*": range(8), "0": (0,), "1-5": range(1, 6), "*/2": (0, 2, 4, 6)}


@settings(max_examples=100, deadline=None)
@given(
    change=st.sampled_from(CHANGES),
    minute=st.sampled_from(list(MINUTES)),
    hour=st.sampled_from(list(HOURS)),
    weekday=st.sampled_from(list(WEEKDAYS)),
    minutes_before=st.integers(-90, 30 * 60),
)
def test_a_rule_that_follows_what_passes_comes_whenever_the_clocks_show_one_of_its_times(
    change: tuple[str, datetime], minute: str, hour: str, weekday: str, minutes_before: int
) -> None:
    assume(minute.startswith("*") or hour.startswith("*"))
    zone, begin = change[0], change[1].replace(tzinfo=UTC) - timedelta(minutes=minutes_before)
    clocks = ZoneInfo(zone)
    shown = (
        (moment, moment.astimezone(clocks)) for n in range(1, 40 * 60) for moment in [begin + n * timedelta(minutes=1)]
    )
    times = [
        moment
        for moment, local in shown
        if local.minute in MINUTES[minute] and local.hour in HOURS[hour] and local.isoweekday() % 7 in WEEKDAYS[weekday]
    ]
    moment, found = begin, []
    for _ in times[:60]:
        moment = next_after(Rule(cron=f"{minute} {hour} * * {weekday}", zone=zone), moment)  # type: ignore[assignment]
        found.append(moment)
    assert found == times[:60]


@pytest.mark.parametrize(
    ("rule", "zone", "before", "shown"),
    [
        ("*/45 */2 * * *", "Pacific/Chatham", datetime(2026, 4, 4, 13, 50), "2026-04-05T02:45:00+12:45"),
        ("*/15 */2 * * *", "Asia/Pyongyang", datetime(2018, 5, 4, 14, 30), "2018-05-05T00:00:00+09:00"),
        ("* */2 * * 7", "Asia/Beirut", datetime(2026, 3, 28, 21), "2026-03-29T02:00:00+03:00"),
        ("*/30 1,2 * * *", "America/Goose_Bay", datetime(2007, 3, 11, 3), "2007-03-11T01:30:00-03:00"),
        ("*/5 * 29 2 *", "Europe/Berlin", datetime(2096, 3, 1), "2104-02-29T00:00:00+01:00"),
    ],
)
def test_it_misses_no_time_and_makes_none_up_where_clocks_are_changed_within_an_hour_or_at_midnight(
    rule: str, zone: str, before: datetime, shown: str
) -> None:
    assert comes(Rule(cron=rule, zone=zone), before.replace(tzinfo=UTC), 1) == [shown]


def test_every_counts_from_its_own_moments_so_it_does_not_drift() -> None:
    due = datetime(2030, 1, 1, tzinfo=UTC)
    hourly = timedelta(hours=1)
    late = due + timedelta(hours=3, minutes=20)
    assert following(Rule(hourly, missed="each"), due, late) == (due + hourly, False)
    assert following(Rule(hourly, missed="once"), due, late) == (due + 4 * hourly, False)
    assert following(Rule(hourly, missed="skip"), due, late) == (due + 4 * hourly, True)
    assert following(Rule(hourly, missed="skip"), due, due + LATE) == (due + hourly, False)


@settings(max_examples=200, deadline=None)
@given(
    every=st.timedeltas(timedelta(seconds=1), timedelta(days=400)),
    behind=st.timedeltas(timedelta(0), timedelta(days=800)),
    missed=st.sampled_from(["once", "skip"]),
)
def test_what_follows_is_the_first_of_its_moments_that_lies_ahead(
    every: timedelta, behind: timedelta, missed: Any
) -> None:
    due = datetime(2030, 1, 1, tzinfo=UTC)
    found, _ = following(Rule(every, missed=missed), due, due + behind)
    assert found is not None
    assert found - every <= due + behind < found
    assert (found - due) % every == timedelta(0)


def test_a_rule_ends_with_the_calendar() -> None:
    last = datetime(9998, 12, 30, tzinfo=UTC)
    assert next_after(Rule(timedelta(days=3)), last) is None
    assert next_after(Rule(cron="0 0 29 2 *"), last) is None


def test_a_local_time_is_the_moment_when_the_clocks_there_show_it() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for local, expected in (
        (datetime(2030, 7, 1, 18), datetime(2030, 7, 1, 16, tzinfo=UTC)),
        (datetime(2030, 3, 31, 2, 30), datetime(2030, 3, 31, 1, tzinfo=UTC)),  # jumped over: when they jump
        (datetime(2030, 10, 27, 2, 30), datetime(2030, 10, 27, 0, 30, tzinfo=UTC)),  # twice: the first
        (datetime(2030, 10, 27, 2, 30, fold=1), datetime(2030, 10, 27, 1, 30, tzinfo=UTC)),
    ):
        assert local_moment(local, "Europe/Berlin", now) == expected
    lord_howe = local_moment(datetime(2030, 10, 6, 2, 15), "Australia/Lord_Howe", now)  # a jump of half an hour
    assert lord_howe.astimezone(ZoneInfo("Australia/Lord_Howe")).time() == time(2, 30)
    evening = datetime(2030, 7, 1, 16, tzinfo=UTC)  # 18:00 there
    assert local_moment(time(18), "Europe/Berlin", evening - timedelta(seconds=1)) == evening
    assert local_moment(time(18), "Europe/Berlin", evening) == evening + timedelta(days=1)


@dataclass
class Begun:
    id: str


@dataclass
class State:
    ticks: int = 0


WRONG = [
    (SetTimer("t", Begun("a"), every=timedelta(0)), "fires at most once a second, but every= is 0:00:00"),
    (SetTimer("t", Begun("a"), every=timedelta(seconds=-1)), "fires at most once a second, but"),
    (SetTimer("t", Begun("a"), every=timedelta(milliseconds=999)), "fires at most once a second, but"),
    (SetTimer("t", Begun("a"), every=timedelta.max), "fires at least once in a hundred years, but every= is 9999"),
    (SetTimer("t", Begun("a"), every=5), "needs a timedelta as every=, not int"),  # type: ignore[arg-type]
    (SetTimer("t", Begun("a"), every=timedelta(days=1), cron="* * * * *"), "either every= or cron="),
    (SetTimer("t", Begun("a"), cron="61 * * * *"), "bad cron rule '61 \\* \\* \\* \\*': bad minute"),
    (SetTimer("t", Begun("a"), cron="0 0 30 2 *"), "bad cron rule"),
    (SetTimer("t", Begun("a"), cron="* * * * * *"), "needs a cron rule of five fields"),
    (SetTimer("t", Begun("a"), cron="1" * 5000 + " * * * *"), "needs a cron rule of five fields"),
    (SetTimer("t", Begun("a"), cron=b"* * * * *"), "needs a string as cron=,"),  # type: ignore[arg-type]
    (SetTimer("t", Begun("a"), cron="0 9 * * *", zone="Europe/Berln"), "an unknown time zone: 'Europe/Berln'"),
    (SetTimer("t", Begun("a"), cron="0 9 * * *", zone="../etc/passwd"), "an unknown time zone:"),
    (SetTimer("t", Begun("a"), cron="0 9 * * *", at=time(9)), "neither after= nor at= with cron=:"),
    (SetTimer("t", Begun("a"), every=timedelta(days=1), zone="Europe/Berlin"), "takes zone= only with cron= or at=;"),
    (SetTimer("t", Begun("a"), after=timedelta(1), zone="Europe/Berlin"), "takes zone= only with at= or cron="),
    (SetTimer("t", Begun("a"), after=timedelta(1), missed="once"), "takes missed= only with every= or cron="),
    (SetTimer("t", Begun("a"), every=timedelta(1), missed="all"), '"each", "once" or "skip"'),  # type: ignore[arg-type]
    (SetTimer("t", Begun("a"), at=datetime(2030, 1, 1)), "an aware datetime as at=, or a zone= with it"),
    (SetTimer("t", Begun("a"), at=time(9)), "an aware datetime as at=, or a zone= with it"),
    (SetTimer("t", Begun("a"), at=datetime(2030, 1, 1, tzinfo=UTC), zone="UTC"), "without a zone of its own"),
    (SetTimer("t", Begun("a")), "either after= or at=, or every= or cron="),
    (SetTimer("t", Begun("a"), at=datetime(1, 1, 1), zone="Asia/Tokyo"), "a time from 0001-01-02 to 9998-12-31"),
]


@pytest.mark.parametrize(("action", "told"), WRONG)
def test_a_wrong_rule_is_refused_before_anything_is_stored_and_names_the_timer(action: SetTimer, told: str) -> None:
    class Wrong(Saga[State]):
        name = "wrong"

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> SetTimer:
            return action

    scenario = Scenario(Wrong)
    with pytest.raises(DefinitionError, match=f"saga 'wrong': SetTimer\\('t'\\) .*{told}"):
        scenario.when(Begun("a"))
    assert scenario.status is None


def test_a_timer_of_an_older_record_has_no_rule() -> None:
    stored = (
        b'{"format":1,"status":"running","state":null,"started_at":"2030-01-01T00:00:00Z","updated_at":'
        b'"2030-01-01T00:00:00Z","timers":{"t":{"id":"1/0","due_at":"2030-01-01T00:00:00Z","event":{"type":"A","data":{}}}}}'
    )
    timer = decode_record(stored).timers["t"]
    assert isinstance(timer, Timer)
    assert timer.rule is None


def test_the_library_is_imported_only_for_a_cron_rule_and_a_missing_one_says_how_to_install_it() -> None:
    code = """
import sys
from datetime import *
from sagalog.definition.recurring import Rule, RuleError, next_after
now = datetime(2030, 1, 1, tzinfo=UTC)
next_after(Rule(timedelta(days=1)), now)
assert "cronsim" not in sys.modules
sys.modules["cronsim"] = None
try:
    next_after(Rule(cron="* * * * *"), now)
except RuleError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "has a cron rule, which needs a library: pip install 'sagalog[cron]'", done.stderr
