"""The simulation: our own order saga survives it, planted bugs do not, and the same seed is the same story."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from sagalog import Complete, Saga, Send, SetTimer, on, starts
from sagalog.testing.simulation import Finished, SimulationError, World, simulate
from sagalog.testing.simulation.run import SimulatedRun

from ..numbered import Meters
from ..orders import Note, Noted, OrderSaga, OrderState, Overdue, Placed, Reserve, Reserved, Ship
from ..phased import Orders
from ..seeds import SEED
from .clockwork import Clockwork
from .crates import Crates, Dropped
from .heap_world import Heaps, HeapSaga
from .legs import Legs
from .numbered_world import Stations
from .parcels import Parcels, ParcelSaga, let_answers_wait
from .phased_world import Depot
from .questions import Questions
from .shop_world import Shop
from .waybill_world import Waybills

FIRST = int(os.environ.get("SAGALOG_SIMULATION_SEED", SEED))
SEEDS = int(os.environ.get("SAGALOG_SIMULATION_SEEDS", "1000"))


OURS = {"order: Asked", "order: Failing"}  # which the world of these tests leaves out


def test_nothing_that_goes_wrong_breaks_a_guarantee() -> None:
    print(f"to run the same again: SAGALOG_SIMULATION_SEED={FIRST}")
    report = simulate([OrderSaga], Shop, seeds=range(FIRST, FIRST + SEEDS))
    assert report.seeds == SEEDS
    assert set(report.never) <= OURS, "a green run in which these never happened says nothing about them"


def test_nothing_breaks_a_guarantee_where_many_answers_are_stored_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_answers_wait(monkeypatch)
    report = simulate([ParcelSaga], Parcels, seeds=range(FIRST, FIRST + SEEDS // 4))
    assert not report.never, "a green run in which these never happened says nothing about them"


class Fronts(Shop):
    clients = 2


def test_nothing_that_goes_wrong_breaks_a_guarantee_where_events_come_through_clients() -> None:
    print(f"to run the same again: SAGALOG_SIMULATION_SEED={FIRST}")
    report = simulate([OrderSaga], Fronts, seeds=range(FIRST, FIRST + SEEDS // 16))
    assert report.seeds == SEEDS // 16


def test_nothing_that_goes_wrong_breaks_what_phases_promise() -> None:
    print(f"to run the same again: SAGALOG_SIMULATION_SEED={FIRST}")
    report = simulate([Orders], Depot, seeds=range(FIRST, FIRST + SEEDS // 8))
    never = {one for one in report.never if one.startswith("phased")}
    assert never <= {"phased: Asked"}, "a green run in which these never happened says nothing about them"


def test_nothing_that_goes_wrong_loses_what_a_parked_instance_holds_in_its_earlier_records() -> None:
    print(f"to run the same again: SAGALOG_SIMULATION_SEED={FIRST}")
    report = simulate([HeapSaga], Heaps, seeds=range(FIRST, FIRST + SEEDS // 16))
    assert not {one for one in report.never if one.startswith("heap")}


def test_nothing_that_goes_wrong_breaks_the_order_of_numbered_events() -> None:
    print(f"to run the same again: SAGALOG_SIMULATION_SEED={FIRST}")
    report = simulate([Meters], Stations, seeds=range(FIRST, FIRST + SEEDS // 16))
    assert not {one for one in report.never if one.startswith("numbered")}


def test_what_never_happened_is_told() -> None:
    report = simulate([OrderSaga], Shop, seeds=[1])
    assert "order: Failing" in report.never
    assert "purge refused" in report.never
    assert report.sagas["order"]["Placed"] > 0
    other = simulate([OrderSaga], Shop, seeds=[2])
    placed = report.sagas["order"]["Placed"] + other.sagas["order"]["Placed"]
    report.add(other)
    assert (report.seeds, report.sagas["order"]["Placed"]) == (2, placed)


def digest(seeds: range) -> str:
    story = hashlib.sha256()
    for seed in seeds:
        run = SimulatedRun([OrderSaga()], Shop(), seed)
        assert run.execute() is None
        story.update("\n".join(run.story).encode())
    return story.hexdigest()


def test_the_same_seed_is_the_same_story_in_another_process(tmp_path: Path) -> None:
    code = "from tests.testing.test_simulation import digest; print(digest(range(20)))"
    root = str(Path(__file__).parents[2])
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == digest(range(20)), done.stderr


class CountingSaga(Saga[OrderState]):
    """It has a bug of its own: it forgets that a note may come before the end, and after it."""

    name = "counting"

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed) -> None:
        state.total = event.total

    @on(Noted, key="order_id")
    def noted(self, state: OrderState, event: Noted):
        state.log.append(event.text)
        yield Send(Note(event.order_id, event.text))
        if event.text == "last":
            yield Complete()


class Notes(World):
    def events(self, chance: random.Random):
        yield Placed("a")
        yield 1
        yield Noted("a", "first")
        yield Noted("a", "last")

    def check(self, instance: Finished) -> None:
        assert instance.status != "completed" or instance.state.log == ["first", "last"], "the first note was overtaken"


def test_a_bug_of_a_users_saga_is_told_as_a_short_story_and_replayed_by_its_seed() -> None:
    with pytest.raises(SimulationError) as caught:
        simulate([CountingSaga], Notes, seeds=range(500))
    said = str(caught.value)
    assert said.startswith("the first note was overtaken")
    assert f"seed {caught.value.seed}; faults that it takes: " in said
    assert "Noted(order_id='a', text='last') is accepted" in said
    assert len(said.splitlines()) < 30
    with pytest.raises(SimulationError) as again:
        simulate([CountingSaga], Notes, seeds=[caught.value.seed])
    assert str(again.value) == said


def test_a_world_without_events_is_told() -> None:
    with pytest.raises(NotImplementedError, match="World.events"):
        simulate([OrderSaga], World, seeds=[1])


class WarehouseSaga(Saga[OrderState]):
    """Starts with the same event as the other, and answers its command."""

    name = "warehouse"

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed) -> None:
        state.log.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: OrderState, event: Noted):
        state.log.append("asked")
        yield Send(Ship(event.order_id))
        yield Complete()


class BuyingSaga(Saga[OrderState]):
    name = "buying"

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed):
        yield Send(Reserve(event.order_id))

    @on(Reserved, key="order_id")
    def reserved(self, state: OrderState, event: Reserved):
        state.log.append("reserved")
        yield Complete()


class TwoSagas(World):
    """Both start with the same event; a command of the one becomes an event of the other, whose command answers it."""

    def events(self, chance: random.Random):
        for n in range(4):
            yield Placed(f"o{n}")
            yield 10

    def answer(self, command, chance: random.Random):
        if isinstance(command, Reserve):
            return Noted(command.order_id, "please")
        return Reserved(command.order_id) if isinstance(command, Ship) else None

    def check_all(self, instances: list[Finished]) -> None:
        stock = {one.correlation_id for one in instances if one.saga == "warehouse" and one.status == "completed"}
        bought = {one.correlation_id for one in instances if one.saga == "buying" and one.status == "completed"}
        assert bought <= stock, f"bought {bought}, and the warehouse let go {stock}"


def test_sagas_of_one_world_talk_to_each_other() -> None:
    report = simulate([BuyingSaga, WarehouseSaga], TwoSagas, seeds=range(60))
    assert report.sagas["warehouse"]["ends completed"] > 0
    assert report.sagas["buying"]["ends completed"] > 0


def test_what_must_hold_over_all_instances_is_checked() -> None:
    class Wrong(TwoSagas):
        def check_all(self, instances: list[Finished]) -> None:
            assert len({one.saga for one in instances}) < 2, "there are two sagas"

    with pytest.raises(SimulationError, match="there are two sagas"):
        simulate([BuyingSaga, WarehouseSaga], Wrong, seeds=[1])


class MonthlySaga(Saga[OrderState]):
    """It goes on for ever."""

    name = "monthly"

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed):
        return SetTimer("month", Overdue(event.order_id), after=timedelta(days=30))

    @on(Overdue, key="order_id")
    def overdue(self, state: OrderState, event: Overdue):
        state.total += 1
        return SetTimer("month", Overdue(event.order_id), after=timedelta(days=30))


class Year(World):
    horizon = timedelta(days=365)

    def events(self, chance: random.Random):
        yield Placed("a")

    def check(self, instance: Finished) -> None:
        assert instance.status == "running"
        assert instance.state.total in (11, 12), instance.state.total


def test_a_saga_that_never_ends_is_judged_at_the_horizon_and_idle_time_costs_nothing() -> None:
    report = simulate([MonthlySaga], Year, seeds=range(40))
    assert report.days >= 40 * 365
    assert report.sagas["monthly"]["timer month"] >= 40 * 11


def test_a_saga_that_cannot_handle_an_event_is_wrong_unless_its_world_says_that_it_may_park() -> None:
    class Raising(CountingSaga):
        @on(Noted, key="order_id")
        def noted(self, state: OrderState, event: Noted):
            raise KeyError(event.text)

    with pytest.raises(
        SimulationError, match="stays parked, whatever its operator does: replaying Noted failed: KeyError"
    ):
        simulate([Raising], Notes, seeds=[1])

    class Lenient(Notes):
        may_park = True

        def check(self, instance: Finished) -> None:
            assert instance.status == "parked"

    assert simulate([Raising], Lenient, seeds=[1]).sagas["counting"]["is parked"] > 0


def test_an_error_of_the_world_itself_is_raised_as_it_is() -> None:
    class Broken(Notes):
        def answer(self, command: object, chance: random.Random) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        simulate([CountingSaga], Broken, seeds=range(20))


def test_recurring_timers_come_at_their_moments_whatever_goes_wrong() -> None:
    simulate(Clockwork.sagas, Clockwork, seeds=range(20))


def test_each_question_is_answered_or_not_in_time_whatever_goes_wrong() -> None:
    simulate(Questions.sagas, Questions, seeds=range(20))


def test_a_join_runs_once_after_its_last_leg_whatever_goes_wrong() -> None:
    simulate(Legs.sagas, Legs, seeds=range(20))


def test_a_gather_ends_once_with_all_of_its_legs_whatever_goes_wrong() -> None:
    simulate(Crates.sagas, Crates, seeds=range(12))


def test_a_gather_goes_on_from_legs_that_an_operator_drops_whatever_goes_wrong() -> None:
    simulate(Dropped.sagas, Dropped, seeds=range(15))


def test_ends_that_come_too_early_and_answers_that_nobody_hears_are_counted_whatever_goes_wrong() -> None:
    simulate(Waybills.sagas, Waybills, seeds=range(20))
