"""The guardian: judges texts, names the hazard, writes the safeguard response. All model work runs on the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import ConfigError, GuardianError, GuardrailError, InputError, PoolError
from guardrail_plugin.core.hazards import Taxonomy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.asking import aask, ask, budget
from guardrail_plugin.guardian.canaries import canaries, harmful_for, refuse_if_blind
from guardrail_plugin.guardian.doors import Doors
from guardrail_plugin.guardian.families.own import OwnFamily
from guardrail_plugin.guardian.families.protocol import Family
from guardrail_plugin.guardian.judging import Judge, calibrated
from guardrail_plugin.guardian.manifest import Calibration, Manifest
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.guardian.responding import (
    Responses,
    check_responses,
    response_check,
    response_request,
    usable,
    written,
)
from guardrail_plugin.guardian.tokenizer import ContentTokenizer
from guardrail_plugin.pool.protocol import GenerateRequest

if TYPE_CHECKING:
    from guardrail_plugin.pool import InferencePool

__all__ = ["Guardian", "calibrated", "conversation"]

WARM_UP_S = 120.0
"""Longest that the first check may take: weights are read in it."""


class Guardian(Doors):
    """A small language model that detects harmful text and answers it. Safe to share between threads and event loops.

    Use ``Guardian.load``; the constructor takes the parts that it puts together: ``family`` for a guard model of any
    family, or ``manifest`` and ``tokenizer`` for one in the library's own format.

    Attributes:
        family: how the model is shown a text and how its answer is read.
        manifest: what the weights are; only in the library's own format.
        max_windows: most windows of one text that are scored; a longer text is judged by its first, last and evenly
            spaced windows, and its verdict says ``truncated``.
        responder: writes the safeguard responses of a family that cannot; ``None``: written ones are used.
        responses: where the safeguard responses come from.
        base: what an adapter's weights stand on; ``None`` where the id covers all weights.
    """

    def __init__(
        self,
        *,
        pool: InferencePool,
        model_key: str,
        manifest: Manifest | None = None,
        tokenizer: ContentTokenizer | None = None,
        family: Family | None = None,
        calibration: Mapping[Rail, Calibration] | None = None,
        responder: GuardianProtocol | None = None,
        guardian_id: str | None = None,
        max_windows: int = 64,
        responses: Responses = "model",
        base: str | None = None,
    ) -> None:
        check_responses(responses, responder)
        if family is None:
            if manifest is None or tokenizer is None:
                raise ConfigError("a guardian needs a family, or a manifest and a tokenizer")
            family = OwnFamily(manifest.layout, tokenizer)
        self.family = family
        self.manifest = manifest
        self.max_windows = max_windows
        self.responder = responder
        self.responses = responses
        self.base = base
        known = manifest.calibration if calibration is None and manifest is not None else calibration or {}
        self._judge = Judge(
            family=family,
            calibration=known,
            model_key=model_key,
            guardian_id=guardian_id or model_key,
            max_windows=max_windows,
        )
        self._pool = pool
        self._model_key = model_key

    @property
    def id(self) -> str:
        """Name and version of the weights, and of how they are asked; part of every verdict."""
        return self._judge.guardian_id

    @property
    def rails(self) -> frozenset[Rail]:
        """Where the family can serve. A check of another rail is answered with an error, so that rails close."""
        return self.family.rails

    @property
    def taxonomy(self) -> Taxonomy:
        """The hazards that verdicts can name."""
        return self.family.taxonomy

    @property
    def calibration(self) -> Mapping[Rail, Calibration]:
        """How a rail's raw risk becomes a probability, and where it acts."""
        return self._judge.calibration

    def __repr__(self) -> str:
        return f"Guardian({self.id!r})"

    def check(self, text: str | Check, *, rail: Rail = "input", timeout_s: float | None = None) -> Verdict:
        """Judge one text.

        Raises:
            InputError: there is no text in it.
            GuardianError: no verdict could be had.
            PoolError: the pool is overloaded or closed.
        """
        return _only(self.check_many([_as_check(text, rail)], timeout_s=timeout_s))

    async def acheck(self, text: str | Check, *, rail: Rail = "input", timeout_s: float | None = None) -> Verdict:
        """Like ``check``. Cancellation: queued work is withdrawn, running work is dropped when it ends."""
        return _only(await self.acheck_many([_as_check(text, rail)], timeout_s=timeout_s))

    def check_response(self, query: str, response: str, *, timeout_s: float | None = None) -> Verdict:
        """Judge a response to a query (the output rail)."""
        return self.check(Check(response, rail="output", query=query), timeout_s=timeout_s)

    def check_many(self, checks: Sequence[str | Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch. A check that fails yields its error in its place; the others are answered.

        What needs a second question to name the harm is asked it in a second batch: risky texts alone. A lone text is
        judged as input.
        """
        return ask(self._judge.judge(_as_checks(checks)), self._pool, timeout_s=timeout_s)

    async def acheck_many(self, checks: Sequence[str | Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: queued work is withdrawn, running work is dropped when it ends."""
        return await aask(self._judge.judge(_as_checks(checks)), self._pool, timeout_s=timeout_s)

    def self_test(self, harmful: str | None = None, *, timeout_s: float | None = None) -> None:
        """Ask four canary texts: a harmful one, a harmless one, a long one, one with hostile control tokens.

        Raises:
            ConfigError: the guardian does not tell them apart.
            GuardrailError: it gives no verdict.
        """
        harmful = harmful or harmful_for(self.family.codes.values())
        refuse_if_blind(self.id, self.check_many(canaries(harmful, rail=self._any_rail), timeout_s=timeout_s))

    def warm_up(self, *, timeout_s: float = WARM_UP_S) -> None:
        """Judge a word, so that weights are read now and not in the first request's time.

        Raises:
            GuardrailError: there is no verdict, or the pool is not open.
        """
        self.check("Hello", rail=self._any_rail, timeout_s=timeout_s)

    @property
    def _any_rail(self) -> Rail:
        return "input" if "input" in self.rails else sorted(self.rails)[0]

    def count_tokens(self, text: str) -> int:
        """Return how long a text is in the family's tokens."""
        return len(self.family.encode(text))

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write the safeguard response for a blocked text.

        The model's own text is shown only if the guardian finds it safe and it is a refusal that speaks of what was
        asked; else, for languages that the model does not write, for S4 and S11, and with ``responses="written"``, a
        written response is used. Never raises for model failures.
        """
        if self.responder is not None:
            return self.responder.respond(check, verdict, timeout_s=timeout_s)
        family, request = self._writing(check, verdict)
        if family is None or request is None:
            return written(check, verdict)
        left = budget(timeout_s)
        try:
            generated = self._pool.generate(request, timeout_s=left())
            text = family.tokenizer.decode(generated.token_ids).strip()
            judged = self.check_many([response_check(check, text)], timeout_s=left())[0]
        except (GuardianError, PoolError):
            return written(check, verdict)
        return text if usable(text, judged, check=check, verdict=verdict) else written(check, verdict)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``. Cancellation: the decode is stopped."""
        if self.responder is not None:
            return await self.responder.arespond(check, verdict, timeout_s=timeout_s)
        family, request = self._writing(check, verdict)
        if family is None or request is None:
            return written(check, verdict)
        left = budget(timeout_s)
        try:
            generated = await self._pool.agenerate(request, timeout_s=left())
            text = family.tokenizer.decode(generated.token_ids).strip()
            judged = (await self.acheck_many([response_check(check, text)], timeout_s=left()))[0]
        except (GuardianError, PoolError):
            return written(check, verdict)
        return text if usable(text, judged, check=check, verdict=verdict) else written(check, verdict)

    def _writing(self, check: Check, verdict: Verdict | None) -> tuple[OwnFamily | None, GenerateRequest | None]:
        """Return who writes a response and what is decoded for it; ``None`` where a written one is the answer."""
        if self.responses == "written" or not isinstance(self.family, OwnFamily):
            return None, None
        return self.family, response_request(self.family, self._model_key, check, verdict)


def _as_check(text: str | Check, rail: Rail) -> Check:
    return text if isinstance(text, Check) else Check(text, rail=rail)


def _as_checks(checks: Sequence[str | Check]) -> list[Check]:
    if isinstance(checks, str | Check):
        raise InputError(f"check_many takes a list, got one {type(checks).__name__}; use check")
    return [_as_check(one, "input") for one in checks]


def conversation(messages: Sequence[Message], *, rail: Rail = "input") -> Check:
    """Return the check of the last message, with the earlier ones as context.

    Raises:
        InputError: there is no message.
    """
    if not messages:
        raise InputError("there is no message to check")
    return Check(messages[-1].text, rail=rail, context=tuple(messages[:-1]))


def _only(outcomes: Sequence[CheckOutcome]) -> Verdict:
    outcome = outcomes[0]
    if isinstance(outcome, GuardrailError):
        raise outcome
    return outcome
