"""The store of kept rows: longest beginning, bounds, time limit, shared pieces counted once."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.models.kept import MIN_REUSE, KeptRows, KeptStats, Prefix  # noqa: E402

TOKEN_BYTES = 2 * 2 * 1 * 4 * 4  # layers, keys and values, heads, width, float32


def rows_of(*ids: int) -> torch.Tensor:
    """A segment (2, 2, n, 1, 4) in which every token says its id."""
    return torch.tensor(ids, dtype=torch.float32).view(1, 1, -1, 1, 1).repeat(2, 2, 1, 1, 4)


def said(prefix: Prefix) -> list[int]:
    return [int(i) for segment in prefix.segments for i in segment[0, 0, :, 0, 0]]


def test_the_longest_common_beginning_is_found() -> None:
    kept = KeptRows(max_bytes=1 << 20)
    draw = random.Random(3)
    known = [tuple(draw.choices(range(2), k=draw.randint(8, 30))) for _ in range(60)]
    for ids in known:
        kept.put(ids, (rows_of(*ids),))
    for _ in range(300):
        asked = tuple(draw.choices(range(2), k=draw.randint(1, 30)))
        common = max(
            next((i for i, (a, b) in enumerate(zip(one, asked, strict=False)) if a != b), min(len(one), len(asked)))
            for one in known
        )
        found = kept.longest(asked, most=len(asked) - 1)
        expected = min(common, len(asked) - 1)
        assert found.length == (expected if expected >= MIN_REUSE else 0)
        assert said(found) == list(asked[: found.length])


def test_least_recently_used_rows_make_room_and_the_bound_holds() -> None:
    kept = KeptRows(max_bytes=30 * TOKEN_BYTES)
    for first in (100, 200, 300):
        kept.put(tuple(range(first, first + 10)), (rows_of(*range(first, first + 10)),))
    assert kept.stats.bytes == 30 * TOKEN_BYTES
    assert kept.longest(tuple(range(100, 110)), most=9).length == 9  # now 200 is the one that nobody used longest
    kept.put(tuple(range(400, 410)), (rows_of(*range(400, 410)),))
    assert [kept.covers(tuple(range(n, n + 10))) for n in (100, 200, 300, 400)] == [True, False, True, True]
    assert kept.stats == KeptStats(rows=3, bytes=30 * TOKEN_BYTES, lookups=1, hits=1, tokens_reused=9, evicted=1)
    kept.put(tuple(range(500, 540)), (rows_of(*range(500, 540)),))  # larger than all
    assert (kept.stats.rows, kept.stats.bytes) == (3, 30 * TOKEN_BYTES)


def test_shared_pieces_count_once_and_as_long_as_somebody_holds_them() -> None:
    kept = KeptRows(max_bytes=35 * TOKEN_BYTES)
    template = tuple(range(20))
    kept.put(template, (rows_of(*template),))
    for tail in (50, 60):
        prefix = kept.longest((*template, tail), most=20)
        kept.put((*template, *range(tail, tail + 5)), (*prefix.segments, rows_of(*range(tail, tail + 5))))
    assert (kept.stats.rows, kept.stats.bytes) == (3, 30 * TOKEN_BYTES)
    assert said(kept.longest((*template, 60, 61, 62, 9), most=99)) == [*template, 60, 61, 62]
    kept.put(tuple(range(90, 100)), (rows_of(*range(90, 100)),))  # five too many: the template goes, its memory stays
    assert not kept.covers((*template, 50))
    assert kept.stats.bytes <= 35 * TOKEN_BYTES
    kept.clear()
    assert (kept.stats.rows, kept.stats.bytes) == (0, 0)


def test_a_row_that_was_extended_many_times_is_one_piece_again() -> None:
    kept = KeptRows(max_bytes=1 << 20)
    for length in range(8, 80, 8):
        ids = tuple(range(length))
        prefix = kept.longest(ids, most=length)
        kept.put(ids, (*prefix.segments, rows_of(*ids[prefix.length :])))
    found = kept.longest(tuple(range(72)), most=72)
    assert said(found) == list(range(72))
    assert len(found.segments) <= 4


def test_rows_that_nobody_used_for_long_are_dropped() -> None:
    now = [0.0]
    kept = KeptRows(max_bytes=1 << 20, max_age_s=10.0, clock=lambda: now[0])
    one, other = tuple(range(10)), tuple(range(50, 60))
    kept.put(one, (rows_of(*one),))
    now[0] = 6.0
    kept.put(other, (rows_of(*other),))
    assert kept.longest(one, most=9).length == 9
    now[0] = 15.0
    assert kept.longest(one, most=9).length == 9
    now[0] = 16.5
    assert kept.longest(other, most=9).length == 0
    assert kept.stats.evicted == 1
    now[0] = 30.0
    assert kept.longest(one, most=9).length == 0
    assert kept.stats.bytes == 0
