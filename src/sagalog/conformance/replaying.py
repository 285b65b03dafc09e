"""Replay, and deleting a prefix. The rules are those of Apache Pekko's journal specification, in our words."""

from __future__ import annotations

import pytest

from ..errors import SequenceOutOfOrder
from ..journal.pages import page_bytes_of, paging_of
from ..journal.protocol import Journal
from .capability import Capability, may
from .records import record, replay, write


class Replaying:
    """What a journal promises of what it holds of one id."""

    async def test_replay_gives_all_records_in_order(self, five: Journal) -> None:
        messages = [m async for m in five.replay_messages("p")]
        assert [(m.sequence_nr, m.payload) for m in messages] == [(n, f"p-{n}".encode()) for n in range(1, 6)]

    async def test_replay_with_a_lower_bound_begins_there(self, five: Journal) -> None:
        assert await replay(five, "p", 3) == [3, 4, 5]

    async def test_replay_with_an_upper_bound_ends_there(self, five: Journal) -> None:
        assert await replay(five, "p", 1, 3) == [1, 2, 3]

    async def test_replay_with_both_bounds_includes_both(self, five: Journal) -> None:
        assert await replay(five, "p", 2, 4) == [2, 3, 4]

    async def test_replay_with_equal_bounds_gives_one(self, five: Journal) -> None:
        assert await replay(five, "p", 3, 3) == [3]

    async def test_replay_with_a_limit_stops_after_so_many(self, five: Journal) -> None:
        assert await replay(five, "p", max=2) == [1, 2]
        assert await replay(five, "p", 2, 4, 2) == [2, 3]

    async def test_replay_with_limit_zero_gives_nothing(self, five: Journal) -> None:
        assert await replay(five, "p", max=0) == []

    async def test_replay_with_a_limit_below_the_range_gives_as_many_as_the_limit(self, five: Journal) -> None:
        assert await replay(five, "p", 2, 5, 1) == [2]

    async def test_replay_of_a_reversed_range_gives_nothing(self, five: Journal) -> None:
        assert await replay(five, "p", 4, 2) == []

    async def test_replay_outside_the_range_gives_nothing(self, five: Journal) -> None:
        assert await replay(five, "p", 6) == []

    @may(Capability.HISTORY)
    async def test_every_record_of_a_live_id_is_kept_and_found_by_its_number(self, journal: Journal) -> None:
        assert page_bytes_of(journal) > 0, "held messages stay in earlier records only for a journal that allows it"
        for number in range(1, 41):
            await journal.write_batch([record("p", number, b"%d" % number), record(f"other {number}", 1)])
        for number in (1, 2, 16, 17, 18, 30, 39, 40):
            found = [m.payload async for m in journal.replay_messages("p", number, number)]
            assert found == [b"%d" % number]
        assert await replay(journal, "p", 20, 30) == list(range(20, 31))
        assert await replay(journal, "p", 41, 50) == []
        assert await replay(journal, "p", 38) == [38, 39, 40]

    async def test_so_many_records_of_a_live_id_are_kept_as_it_says(self, journal: Journal) -> None:
        kept = min(40, paging_of(journal).history)
        for number in range(1, 2 * kept + 5):
            await journal.write_batch([record("p", number, b"%d" % number)])
            assert (await replay(journal, "p"))[-kept - 1 :] == list(range(max(1, number - kept), number + 1))

    async def test_an_unknown_id_has_no_records_and_highest_zero(self, five: Journal) -> None:
        assert await replay(five, "unknown") == []
        assert await five.highest_sequence_nr("unknown") == 0
        assert await five.latest_message("unknown") is None

    async def test_highest_is_the_last_number(self, five: Journal) -> None:
        assert await five.highest_sequence_nr("p") == 5

    async def test_after_deleting_to_three_the_deleted_ones_are_gone_and_the_rest_remains(self, five: Journal) -> None:
        await five.delete_messages_to("p", 3)
        assert await replay(five, "p") == [4, 5]
        assert await replay(five, "p", 1, 3) == []
        assert await replay(five, "p", 1, 4) == [4]
        assert await replay(five, "p", 1, 5, 1) == [4]
        assert await five.highest_sequence_nr("p") == 5
        assert await replay(five, "other") == [1]

    async def test_after_deleting_everything_the_highest_number_is_still_known(self, five: Journal) -> None:
        await five.delete_messages_to("p", 5)
        assert await replay(five, "p") == []
        assert await five.highest_sequence_nr("p") == 5
        assert await five.latest_message("p") is None
        assert "p" not in [key async for key in five.all_persistence_ids()]
        with pytest.raises(SequenceOutOfOrder):
            await write(five, "p", 1)
        await write(five, "p", 6)
        assert await replay(five, "p") == [6]

    async def test_deleting_beyond_the_last_number_does_not_move_it(self, five: Journal) -> None:
        await five.delete_messages_to("p", 99)
        assert await five.highest_sequence_nr("p") == 5
        await write(five, "p", 6)
        assert await replay(five, "p") == [6]

    async def test_deleting_an_unknown_id_is_nothing(self, five: Journal) -> None:
        await five.delete_messages_to("unknown", 3)
        assert await five.highest_sequence_nr("unknown") == 0
