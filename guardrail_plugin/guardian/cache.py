"""Remember verdicts: the same text, asked again, costs a hash instead of a forward pass."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, VerdictParseError, did_you_mean
from guardrail_plugin.core.verdict import RAILS, Rail, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.guardian.views.stacked import unstacked
from guardrail_plugin.guardian.wrapped import WrappedGuardian

DEFAULT_RAILS: tuple[Rail, ...] = ("input", "tool_output", "document")
"""Rails whose texts come back. Answers grow window by window and tool arguments vary: they would push out others."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done so far.

    Attributes:
        hits: checks answered from the cache, repeats within one batch included.
        misses: checks that the guardian was asked.
        bypassed: checks on rails that are not cached.
        evictions: verdicts pushed out by newer ones.
        expired: verdicts that had become too old when they were asked for.
        entries: verdicts held now.
    """

    hits: int
    misses: int
    bypassed: int
    evictions: int
    expired: int
    entries: int


class CachedGuardian(WrappedGuardian):
    """A guardian that answers from memory what it has judged before. Safe to share between threads and event loops.

    The key is a hash of the text, its query and context, the rail and the guardian's id; no text is kept. Text is
    compared in Unicode's composed form, with one kind of line end and without white space around it: only
    what reads the same is taken for the same. Verdicts are kept, not actions: policies apply afterwards, so
    that a changed policy needs no new cache. Errors are never kept, nor verdicts that lack somebody's: incomplete ones
    and stand-ins. A verdict from the cache has ``seconds=0``.

    Does not: write anything to disk, or keep safeguard responses.
    """

    def __init__(
        self,
        guardian: GuardianProtocol,
        *,
        max_entries: int = 10_000,
        ttl_s: float | None = 3600.0,
        rails: Iterable[Rail] = DEFAULT_RAILS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap a guardian.

        Args:
            max_entries: most verdicts held; the least recently used goes first. One takes about 0.6 kB.
            ttl_s: seconds for which a verdict counts; ``None``: for as long as it is held.
            rails: the rails whose verdicts are kept.
            clock: monotonic seconds.

        Raises:
            ConfigError: a setting is wrong.
        """
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigError(f"max_entries must be 1 or more, got {max_entries!r}")
        if ttl_s is not None and not ttl_s > 0:
            raise ConfigError(f"ttl_s must be more than 0, or None, got {ttl_s!r}")
        if isinstance(rails, str):
            raise ConfigError(f"rails must be a list of rails, got {rails!r}")
        self._rails = frozenset(rails)
        for rail in self._rails:
            if rail not in RAILS:
                raise ConfigError(f"unknown rail {rail!r}{did_you_mean(str(rail), RAILS)}")
        super().__init__(guardian)
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()
        self._hits = self._misses = self._bypassed = self._evictions = self._expired = 0

    def __repr__(self) -> str:
        return f"CachedGuardian({self.id!r}, max_entries={self._max_entries}, ttl_s={self._ttl_s})"

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all: what is known from memory, the rest, each once, in one batch of the guardian."""
        keys, found, asked = self._look_up(checks)
        given = self._guardian.check_many([checks[i] for i in asked], timeout_s=timeout_s) if asked else []
        return self._answers(keys, found, asked, given)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: passes to the guardian; nothing is kept of the batch."""
        keys, found, asked = self._look_up(checks)
        given = await self._guardian.acheck_many([checks[i] for i in asked], timeout_s=timeout_s) if asked else []
        return self._answers(keys, found, asked, given)

    def stats(self) -> CacheStats:
        """Return what the cache has done so far."""
        with self._lock:
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                bypassed=self._bypassed,
                evictions=self._evictions,
                expired=self._expired,
                entries=len(self._kept),
            )

    def clear(self) -> None:
        """Forget all verdicts; the counts stay."""
        with self._lock:
            self._kept.clear()

    def _look_up(self, checks: Sequence[Check]) -> tuple[list[bytes | None], dict[int, Verdict], list[int]]:
        """Return each check's key, the verdicts that are known, and the checks to ask: each key's first."""
        keys = [self._key(check) if check.rail in self._rails else None for check in checks]
        found: dict[int, Verdict] = {}
        asked: list[int] = []
        first: set[bytes] = set()
        with self._lock:
            now = self._clock()
            for index, key in enumerate(keys):
                if key is None:
                    self._bypassed += 1
                    asked.append(index)
                elif (known := self._fresh(key, now)) is not None:
                    self._hits += 1
                    found[index] = known
                elif key not in first:
                    self._misses += 1
                    first.add(key)
                    asked.append(index)
        return keys, found, asked

    def _fresh(self, key: bytes, now: float) -> Verdict | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        until, known = kept
        if now >= until:
            del self._kept[key]
            self._expired += 1
            return None
        self._kept.move_to_end(key)
        return known

    def _answers(
        self, keys: list[bytes | None], found: dict[int, Verdict], asked: list[int], given: Sequence[CheckOutcome]
    ) -> list[CheckOutcome]:
        if len(given) != len(asked):
            # The count is the caller's to check; here it would shift answers from one text to another.
            raise VerdictParseError(f"the guardian gave {len(given)} answers to {len(asked)} checks")
        answers: dict[int, CheckOutcome] = {**found, **dict(zip(asked, given, strict=True))}
        firsts = {keys[index]: index for index in asked if keys[index] is not None}
        with self._lock:
            until = self._clock() + (float("inf") if self._ttl_s is None else self._ttl_s)
            for key, index in firsts.items():
                outcome = answers[index]
                if key is not None and isinstance(outcome, Verdict) and _stays(outcome):
                    self._kept[key] = (until, replace(outcome, seconds=0.0))
                    self._kept.move_to_end(key)
            while len(self._kept) > self._max_entries:
                self._kept.popitem(last=False)
                self._evictions += 1
            for index, key in enumerate(keys):
                if index not in answers:
                    self._hits += 1
                    answers[index] = answers[firsts[key]]
        return [answers[index] for index in range(len(keys))]

    def _key(self, check: Check) -> bytes:
        parts = [self.id, check.rail, _normal(check.text)]
        parts += ["query", _normal(check.query)] if check.query is not None else ["no query"]
        for message in check.context:
            parts += [message.role, _normal(message.text)]
        digest = blake2b(digest_size=32)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            # The length in front: no two lists of parts run together to the same bytes.
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.digest()


def _stays(verdict: Verdict) -> bool:
    """Tell whether the next check would be answered the same, had nobody been down."""
    return not (verdict.incomplete or verdict.stand_in)


def _normal(text: str) -> str:
    told = text.replace("\r\n", "\n").replace("\r", "\n")
    if unstacked(told)[1]:  # as it came: normalising it would take minutes, and cutting it make two texts one
        return told.strip()
    return unicodedata.normalize("NFC", told).strip()
