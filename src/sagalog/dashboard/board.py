"""What the pages share: the journal, the counts, who may do what, and the templates."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
from jinja2.utils import concat
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ..definition.saga import Saga
from ..errors import JournalUnavailableError
from ..journal import Journal
from ..operating.readable import Code
from ..waiting import start_task
from .access import Access, known_operator
from .mask import Mask
from .overview import Overview
from .render import environment, link, live_address
from .search import CHOICES
from .sender import EventSender
from .shown import ShownJournal
from .story import InstanceStory
from .tally import STATUSES

MAX_STORIES = 16
_TIMES = re.compile(r"(<time[^>]*>)[^<]*")


class Page(msgspec.Struct):
    """What a page is made of: its template, what it tells, and the status of the answer."""

    template: str
    context: dict[str, Any]
    status: int = 200
    tab: str = ""
    live: bool = True


class Fragment(msgspec.Struct, frozen=True):
    """A part of a page that may change while it is open. `mark` changes with it, but not as time passes."""

    mark: str
    html: str


class Board:
    """One dashboard: it reads its journal from the first request on, until it is stopped."""

    def __init__(
        self,
        source: ShownJournal,
        access: Access,
        mask: Mask,
        sagas: Iterable[type[Saga[Any]]],
        sender: EventSender | None = None,
    ) -> None:
        self.source = source
        self.access = access
        self.mask = mask
        self.sagas: dict[str, type[Saga[Any]]] = {saga.name: saga for saga in sagas}
        self.sender: EventSender | None = sender
        self.code: Code = Code(_made(self.sagas.values()), lambda command: True)
        self.overview: Overview = Overview(source)
        self.stopping: asyncio.Event = asyncio.Event()
        self.streams = 0
        self.stories: dict[tuple[str, int, int | None], InstanceStory] = {}  # by instance, version, page; oldest first
        self._templates = environment()
        self._templates.globals["ui"] = self._templates.get_template("parts.html").module
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start counting, if that has not begun: a mounted app is not told when its server starts."""
        if (self._task is None or self._task.done()) and not self.stopping.is_set():
            self._task = start_task(self.overview.run(), name="sagalog-dashboard")

    async def journal(self) -> Journal:
        """Return the journal. Raises JournalError at once while it is known to be down: nobody waits for a timeout then."""
        if self.overview.unreachable:
            raise JournalUnavailableError(self.overview.down)
        return await self.source.journal()

    async def stop(self) -> None:
        """End the counting and every open stream, and close the journal if it was opened here."""
        self.stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.source.close()

    def events_of(self, saga: str) -> dict[str, bool]:
        """Return the class names of the events that a saga's code handles, and whether each may start it."""
        known = self.sagas.get(saga)
        if known is None:
            return {}
        # By class name, as steps name what they handled.
        return {route.event.__name__: route.starts for route in known.routes()}

    def response(self, request: Request, page: Page) -> HTMLResponse:
        """Return a page as HTML."""
        context = self._context(request, page)
        context["marks"] = {name: one.mark for name, one in self._rendered(page.template, context).items()}
        html = self._templates.get_template(page.template).render(context)
        headers = {"retry-after": "5"} if page.status == 503 else None
        return HTMLResponse(html, page.status, headers)

    def fragments(self, request: Request, page: Page) -> dict[str, Fragment]:
        """Return the parts of a page that may change while it is open."""
        return self._rendered(page.template, self._context(request, page))

    def _rendered(self, name: str, context: dict[str, Any]) -> dict[str, Fragment]:
        found: dict[str, Fragment] = {}
        for template in (self._templates.get_template("layout.html"), self._templates.get_template(name)):
            for block, render in template.blocks.items():
                if block.startswith("live_"):
                    html = concat(render(template.new_context(context)))
                    mark = sha256(_TIMES.sub(r"\1", html).encode("utf-8", "replace")).hexdigest()[:16]
                    found[block] = Fragment(mark, html)
        return found

    def _context(self, request: Request, page: Page) -> dict[str, Any]:
        session = self.access.session(request)
        overview = self.overview
        names = sorted({*overview.tally.sagas(), *self.sagas})
        return {
            "reads": self.access.may_read(request),  # who may not is shown no name and no number
            "link": partial(link, request),
            "live": live_address(request) if page.live and page.status == 200 else "",
            "session": session,
            "operator": known_operator(request),
            "form_token": self.access.form_token(session) if session is not None else "",
            "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "now": datetime.now(UTC),
            "overview": overview,
            "saga_names": names,
            "sends": self.sender is not None,
            "choices": CHOICES,
            "statuses": STATUSES,
            "page_status": page.status,
            "tab": page.tab,
            **page.context,
        }


def _made(sagas: Iterable[type[Saga[Any]]]) -> Iterator[Saga[Any]]:
    """Yield an instance of each saga class; one that is made with arguments is left out, for nobody here has them."""
    for saga in sagas:
        try:
            yield saga()
        except TypeError:
            continue
