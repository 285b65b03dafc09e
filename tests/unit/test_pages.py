"""What a record holds is stored in pages, and read again as it was: against a plain list, whatever happens in between."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagalog import CodecError, SagaRecord, Status
from sagalog.decision.lookup import MessageLookup
from sagalog.decision.pages import NOTHING_HELD, StoredHeld, as_stored, encode_in_pages, left_of, whole
from sagalog.decision.record import FORMAT, Held, decode_record, encode_record
from sagalog.definition.codec import Typed

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TEXT = "a text of some length, as events have it"


def held(name: str, size: int = 1) -> Held:
    return Held(name, Typed("Noted", msgspec.Raw(msgspec.json.encode({"text": TEXT * size}))))


def record(*messages: Held) -> SagaRecord:
    return SagaRecord(
        FORMAT, Status.RUNNING, msgspec.Raw(b'{"n":1}'), NOW, NOW, parked="it failed", held=tuple(messages)
    )


class Shelf:
    """The records of one instance, as a journal keeps them."""

    def __init__(self, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.rows: list[bytes] = []
        self.stored = NOTHING_HELD

    @property
    def written(self) -> int:
        return sum(map(len, self.rows))

    def save(self, given: SagaRecord) -> None:
        encoded = encode_in_pages(given, self.stored, self.page_bytes)
        assert encoded.size == len(encode_record(given)), "its size is not that of the whole record"
        self.rows.append(encoded.payload)
        self.stored = StoredHeld(len(self.rows), 0, given.held, encoded.pages, encoded.own)

    def load(self) -> SagaRecord:
        found = decode_record(self.rows[-1])
        assert all(page.version < len(self.rows) for page in found.held_in)
        made = whole(found, {page.version: decode_record(self.rows[page.version - 1]).held for page in found.held_in})
        self.stored = as_stored(found, made, len(self.rows), 0)
        return made


def test_what_is_written_for_messages_held_one_by_one_grows_with_their_number() -> None:
    def written(count: int) -> int:
        shelf, messages = Shelf(4096), list[Held]()
        for number in range(count):
            messages.append(held(f"m{number}"))
            shelf.save(record(*messages))
        return shelf.written

    few = written(500)
    assert written(2000) < 6 * few  # in each record: 16 times


def test_a_record_names_few_pages_each_at_least_twice_as_large_as_the_next() -> None:
    shelf, messages = Shelf(500), list[Held]()
    for number in range(3000):
        messages.append(held(f"m{number}", 1 + number % 5))
        shelf.save(record(*messages))
        sizes = [page.size for page in shelf.stored.pages]
        assert all(one >= 2 * other for one, other in pairwise(sizes)), sizes
        assert len(sizes) <= 12


def test_a_record_that_holds_nothing_or_little_is_stored_as_before() -> None:
    for messages in ([], [held("a")], [held("a"), held("b")]):
        given = record(*messages)
        assert encode_in_pages(given, NOTHING_HELD, 4096).payload == encode_record(given)
    assert b"held_in" not in encode_record(record(held("a")))


def test_a_record_whose_messages_were_not_only_added_to_holds_all_of_them_itself() -> None:
    shelf = Shelf(1)
    messages = [held(f"m{number}") for number in range(20)]
    for count in range(1, 21):
        shelf.save(record(*messages[:count]))
    assert shelf.stored.pages
    shelf.save(record(*messages[1:]))
    assert not shelf.stored.pages
    assert decode_record(shelf.rows[-1]).held == tuple(messages[1:])


@pytest.mark.parametrize("of", ["the version before", "a record that is not there"])
def test_a_page_that_is_not_the_one_that_is_meant_is_an_error(of: str) -> None:
    shelf = Shelf(1)
    for count in range(1, 12):
        shelf.save(record(*(held(f"m{number}") for number in range(count))))
    found = decode_record(shelf.rows[-1])
    parts = {page.version: decode_record(shelf.rows[page.version - 1]).held for page in found.held_in}
    first = found.held_in[0]
    if of == "the version before":
        parts[first.version] = decode_record(shelf.rows[first.version - 2]).held
    else:
        del parts[first.version]
    with pytest.raises(CodecError, match=f"step {first.version}, which has {first.count}"):
        whole(found, parts)
    assert left_of(found, parts).held_count == found.held_count - first.count


def test_a_page_with_a_field_that_this_code_does_not_know_is_refused() -> None:
    with pytest.raises(CodecError):
        decode_record(encode_record(record(held("a"))).replace(b'"held":', b'"held_in":[[1,1,20,7]],"held":'))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(1, 30), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.integers(0, 5), st.just(0)),
        st.tuples(st.sampled_from(["replay", "reload", "again", "put in front", "lose"]), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([1, 100, 1000, 4096]))
def test_whatever_happens_what_is_read_is_what_a_plain_list_holds(
    steps: list[tuple[str, int, int]], page_bytes: int
) -> None:
    shelf, plain, lookup, serial = Shelf(page_bytes), list[Held](), MessageLookup(), 0
    shelf.save(record())
    current = shelf.load()
    for step, count, size in steps:
        match step:
            case "hold":  # one step each, as they come
                for _ in range(count):
                    serial += 1
                    plain.append(held(f"m{serial}", size))
                    assert not lookup.has(current.held, f"m{serial}", "event")
                    current = record(*current.held, plain[-1])
                    shelf.save(current)
                    assert lookup.has(current.held, f"m{serial}", "event")
            case "drop":
                del plain[:count]
                current = record(*current.held[count:])
                shelf.save(current)
            case "replay":
                plain.clear()
                current = record()
                shelf.save(current)
            case "put in front":  # one that waits for the next incarnation
                plain[:1] = [msgspec.structs.replace(one, waits=True) for one in plain[:1]]
                current = record(*plain)
                shelf.save(current)
            case "again":  # a step that leaves them as they are
                shelf.save(current)
            case "lose":  # a draft that is not stored: the next one begins on the record before it
                lost = record(*current.held, held("lost"))
                lookup.has(lost.held, "lost", "event")
                encode_in_pages(lost, shelf.stored, page_bytes)
            case "reload":
                current = shelf.load()
        assert list(current.held) == plain
    assert list(shelf.load().held) == plain
    for one in plain:
        assert lookup.has(current.held, one.id, "event")
    assert not lookup.has(current.held, "lost", "event")
