"""Headers go to workers in groups: every task once and in order, shards one by one, slow headers one by one."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.on_ray.actors import GROUP_SECONDS, MOST_GROUPED, _Groups
from microseg_ray.runs.tasks import PrepareTask, ShardTask
from microseg_ray.sources import View


@given(headers=st.integers(0, 300), seconds=st.lists(st.floats(0, 10), min_size=1, max_size=40))
def test_every_header_is_given_once_and_in_order(headers, seconds):
    groups = _Groups()
    pending = deque(PrepareTask(str(number), "", "") for number in range(headers))
    given_out: list[str] = []
    taken = 0
    while pending:
        tasks = groups.take(pending)
        assert 1 <= len(tasks) <= min(groups.size, MOST_GROUPED)
        given_out += [task.name for task in tasks]
        before, spent = groups.size, seconds[taken % len(seconds)]
        groups.learn(tasks, spent)
        taken += 1
        assert 1 <= groups.size <= min(2 * before, MOST_GROUPED)
        # At this speed the next group is done in time, unless a single header takes longer.
        assert groups.size == 1 or groups.size * spent / len(tasks) <= GROUP_SECONDS * 1.001
    assert given_out == [str(number) for number in range(headers)]


def test_shards_are_given_one_by_one():
    groups = _Groups()
    groups.size = MOST_GROUPED
    view = View((8, 8))
    pending = deque(ShardTask("a", "", "", view, (0.0, 1.0), (0, column)) for column in range(3))
    assert [task.shard for task in groups.take(pending)] == [(0, 0)]
    groups.learn((pending[0],), 0.0)
    assert groups.size == MOST_GROUPED
    assert len(pending) == 2
