"""Which server gets the next call, with a clock that stands still."""

from __future__ import annotations

import pytest

from guardrail_plugin.core.errors import PoolOverloaded, ReplicaDead
from guardrail_plugin.models.remote_endpoints import FIRST_PAUSE_S, LAST_PAUSE_S, TRIP_AFTER, Endpoint, Endpoints


def urls(found: list[Endpoint]) -> list[str]:
    return sorted(one.url for one in found)


def test_calls_go_where_there_is_least_to_do_and_equals_take_turns() -> None:
    servers = Endpoints(["a", "b", "c"])
    first = [servers.borrow(0.0) for _ in range(6)]
    assert urls(first) == ["a", "a", "b", "b", "c", "c"]
    for one in first:
        if one.url == "b":
            servers.give_back(one)
    assert [servers.borrow(0.0).url for _ in range(2)] == ["b", "b"]


def test_a_call_that_failed_goes_elsewhere_if_there_is_an_elsewhere() -> None:
    servers = Endpoints(["a", "b"])
    first = servers.borrow(0.0)
    second = servers.borrow(0.0, besides=[first])
    assert first.url != second.url
    assert servers.borrow(0.0, besides=[first, second])


def test_a_server_that_is_gone_is_left_alone_for_longer_each_time_and_tried_by_one() -> None:
    servers = Endpoints(["a"])
    endpoint = servers.borrow(0.0)
    now, pauses = 0.0, []
    for _ in range(12):
        servers.failed(endpoint, now, gone=True)
        assert endpoint.open_until is not None
        pauses.append(endpoint.open_until - now)
        with pytest.raises(ReplicaDead):
            servers.borrow(now)
        assert servers.due(endpoint.open_until - 0.01) == []
        now = endpoint.open_until
        assert servers.due(now) == [endpoint]
        assert servers.due(now) == [], "one trial at a time"
    assert pauses[:3] == pytest.approx([FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S])
    assert max(pauses) == LAST_PAUSE_S
    servers.revived(endpoint)
    assert servers.borrow(now) is endpoint
    servers.failed(endpoint, now, gone=False)
    assert endpoint.open_until is not None, "somebody is there, but does not answer: one failure is enough"
    servers.revived(endpoint)
    servers.well(endpoint)
    servers.failed(endpoint, now, gone=False)
    assert endpoint.open_until is None, "after an answer it has its tries again"


def test_whether_another_is_well() -> None:
    servers = Endpoints(["a", "b"])
    first, second = servers.all
    servers.failed(second, 0.0, gone=True, refuses=True)
    assert (servers.others(first), servers.others(second), second.refuses) == (False, True, True)
    servers.revived(second)
    assert (servers.others(first), servers.others(second), second.refuses) == (True, True, False)
    alone = Endpoints(["a"])
    assert not alone.others(alone.all[0])


def test_single_failures_are_forgiven() -> None:
    servers = Endpoints(["a"])
    endpoint = servers.borrow(0.0)
    for _ in range(3):
        for _ in range(TRIP_AFTER - 1):
            servers.failed(endpoint, 0.0, gone=False)
        servers.well(endpoint)
    assert servers.borrow(0.0) is endpoint


def test_a_busy_server_is_left_alone_as_long_as_it_asked() -> None:
    servers = Endpoints(["a", "b"])
    servers.busy(servers.all[0], 0.0, seconds=5.0)
    assert servers.borrow(1.0).url == "b"
    servers.busy(servers.all[1], 1.0, seconds=2.0)
    with pytest.raises(PoolOverloaded) as caught:
        servers.borrow(1.0)
    assert caught.value.retry_after_s == pytest.approx(2.0)
    assert servers.borrow(3.0).url == "b"
