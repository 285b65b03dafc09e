"""What each page tells: read from the counts, and from the journal no more than the page shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from starlette.requests import Request

from ..decision.entries import FINAL, Audit, Status
from ..decision.ids import parts_of, persistence_id
from ..decision.record import SagaRecord
from ..errors import InvalidEventError
from ..journal import Journal
from ..operating.family import family
from ..operating.outbox import LONG, pending
from ..operating.view import SagaView, steps_between, whole_view
from ..text import clean
from .board import MAX_STORIES, Board, Page
from .diagram import diagram
from .flow import BUCKET_SECONDS, BUCKETS, spread
from .render import cut, pretty, whole_number
from .search import Filter, known_sagas, search
from .story import InstanceStory, shown, shown_result, story, veiled
from .tally import MAX_WATCHED, NEEDS_REPAIR, name_of

_MAX_LISTED = 100  # of the commands, timers and held messages of one instance
_SHOWN = 8  # of those that want attention, on the overview


async def overview_page(board: Board, request: Request) -> Page:
    """How all is: counts, rates, and what has waited longest."""
    overview = board.overview
    tally, flow = overview.tally, overview.flow
    reasons: Counter[tuple[str, str, str]] = Counter()
    for status in NEEDS_REPAIR:
        for name, reason in tally.watched[status].entries.items():
            reasons[parts_of(name)[0], status, reason] += 1
    undelivered = sorted(tally.undelivered.entries.items(), key=lambda item: item[1].since)
    overdue = sorted(overview.overdue.values(), key=lambda one: one.since)
    series = flow.series("steps")
    context = {
        "tally": tally,
        "needs_repair": tally.count(*NEEDS_REPAIR),
        "reasons": reasons.most_common(_SHOWN),
        "undelivered": [(*parts_of(name), entry) for name, entry in undelivered[:_SHOWN]],
        "undelivered_cut": tally.undelivered.cut,
        "undelivered_number": sum(entry.number for _, entry in undelivered),  # commands, as `stats` counts them,
        "overdue": [(*parts_of(one.name), one.since) for one in overdue[:_SHOWN]],
        "overdue_number": len(overdue),
        "most_watched": MAX_WATCHED,
        "rates": {what: flow.rate(what) for what in ("steps", "events", "commands")},
        "series": series,
        "series_top": max(max(series), 1),
        "series_minutes": BUCKETS * BUCKET_SECONDS // 60,
        "bucket_seconds": BUCKET_SECONDS,
        "lives": spread(flow.lives),
        "timer_lags": spread(flow.timer_lags),
    }
    return Page("overview.html", context, tab="overview")


async def instances_page(board: Board, request: Request) -> Page:
    """The instances that a filter, which is all in the link, leaves."""
    journal = await board.journal()
    wanted = Filter.of(request.query_params)
    if any(board.mask.hides((field,)) for field in wanted.index):  # or it could be guessed, one value after the other
        wanted = msgspec.structs.replace(wanted, where="")
    found = await search(journal, board.overview, wanted)
    query = {
        "saga": wanted.saga,
        "status": wanted.status if wanted.status != "live" else "",
        "id": wanted.id,
        "anywhere": "1" if wanted.anywhere else "",
        "reason": wanted.reason,
        "phase": wanted.phase,
        "where": wanted.where,
    }
    context = {"wanted": wanted, "found": found, "query": query, "most_watched": MAX_WATCHED}
    context |= {"pending": board.overview.tally.undelivered.entries, "name_of": name_of, "long": LONG}
    context["names"] = await known_sagas(journal, board.overview)
    return Page("instances.html", context, tab="instances")


async def the_instance(journal: Journal, request: Request) -> SagaView | None:
    """Return the instance that a link names, or None where there is none."""
    saga, correlation_id = request.query_params.get("saga", ""), request.query_params.get("id", "")
    if not saga:
        return None
    try:
        message = await journal.latest_message(persistence_id(saga, correlation_id))
    except InvalidEventError:  # an id that no journal takes
        return None
    view = await whole_view(journal, message) if message is not None else None
    # A name that holds `::` would be taken apart elsewhere: that is another instance than was asked for.
    return view if view is not None and (view.saga, view.correlation_id) == (saga, correlation_id) else None


def not_found(request: Request) -> Page:
    """The page for an instance that is not there."""
    wanted = {name: request.query_params.get(name, "") for name in ("saga", "id")}
    return Page("missing.html", {"wanted": wanted}, 404)


def standing(board: Board, view: SagaView) -> dict[str, Any]:
    """Return what the instance page and the repair page tell about how an instance stands."""
    record, mask = view.record, board.mask
    state = ("", 0)
    if record is not None:
        state = ("(not JSON)", 0) if record.state_is_base64 else cut(pretty(record.state, mask))
    result = None if record is None or record.result is None else shown_result(record.result, mask)
    keys = [] if record is None else [veiled(key, mask) for key in record.all_keys()]
    return {"view": view, "record": record, "state": state, "result": result, "keys": keys, "shown": _shower(board)}


def _shower(board: Board) -> Any:
    def show(typed: Any) -> Any:
        return shown(typed.type, typed.data, board.mask)

    return show


async def instance_page(board: Board, request: Request) -> Page:
    """Everything about one instance, with its newest steps, or those before a given one."""
    journal = await board.journal()
    view = await the_instance(journal, request)
    if view is None:
        return not_found(request)
    view = board.code.view(view)
    newest = whole_number(request.query_params.get("before", ""))
    told = await _told(board, journal, view, newest)
    waiting = await pending(journal, view)
    context = {"story": told, "newest": newest, "actions": actions(view), **_progress(view.record), "pending": waiting}
    context["long"], context["relatives"] = LONG, await family(journal, view)
    return Page(
        "instance.html", {**standing(board, view), **context, "done": _done(view, request), "most": _MAX_LISTED}
    )


def actions(view: SagaView) -> list[str]:
    """Return the repairs that make sense for an instance as it stands, apart from sending a command again."""
    record = view.record
    if record is None or record.status in FINAL:
        return []
    needs = bool(record.parked) or record.status is Status.COMPENSATION_FAILED
    return [*(["retry", "skip"] if needs else []), "cancel with compensation", "cancel"]


async def _told(board: Board, journal: Journal, view: SagaView, newest: int | None) -> InstanceStory:
    """Return the steps; once told, those of one version are the same when an open page asks again each second."""
    key = (name_of(view), view.version, newest)
    told = board.stories.pop(key, None) or await story(journal, view, board.mask, newest=newest)
    board.stories[key] = told
    if len(board.stories) > MAX_STORIES:
        board.stories.pop(next(iter(board.stories)))
    return told


def _done(view: SagaView, request: Request) -> Audit | None:
    """Return the repair that was just made, which the link tells by its step."""
    done, record = whole_number(request.query_params.get("done", "")), view.record
    return (
        record.audit[-1] if record is not None and record.audit and done is not None and done <= view.version else None
    )


def _progress(record: SagaRecord | None) -> dict[str, Any]:
    """Return how far a compensation has come: what is left of it, as commands to take back."""
    if record is None or record.status not in (Status.COMPENSATING, Status.COMPENSATION_FAILED, Status.COMPENSATED):
        return {"undoing": None}
    left = [entry for entry in record.outbox if entry.undo]
    return {"undoing": {"left": len(left) or len(record.undo), "failed": record.status is Status.COMPENSATION_FAILED}}


async def payload(board: Board, request: Request) -> tuple[str, int]:
    """Return the whole record of one version of an instance (the newest: none is named) as text, and a status."""
    journal = await board.journal()
    view = await the_instance(journal, request)
    number = whole_number(request.query_params.get("version", ""))
    if view is not None and number not in (None, view.version):
        assert number is not None
        view = (await steps_between(journal, name_of(view), number, number)).get(number)
    if view is None:
        return "There is no such instance, or that step is no longer stored.\n", 404
    if view.record is None:
        return f"The record cannot be read: {view.unreadable or 'it is empty'}\n", 404
    record = view.record
    if board.mask and record.state_is_base64:  # nobody can tell which fields are in it
        record = msgspec.structs.replace(record, state=msgspec.Raw(b'"(masked: not JSON)"'))
    return clean(pretty(msgspec.json.encode(record), board.mask)) + "\n", 200


async def saga_page(board: Board, request: Request) -> Page:
    """The picture of one saga."""
    name = request.query_params.get("name", "")
    overview = board.overview
    if name not in overview.tally.sagas() and name not in board.sagas:
        journal = await board.journal()
        if name not in await known_sagas(journal, overview):
            return Page("missing.html", {"wanted": {"saga": name, "id": ""}}, 404)
    picture = diagram(overview.tally, overview.flow, name, board.events_of(name))
    return Page("saga.html", {"name": name, "picture": picture, "tally": overview.tally}, tab=f"saga {name}")
