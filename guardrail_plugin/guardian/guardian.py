"""The guardian: judges texts, names the hazard, writes the safeguard response. All model work runs on the pool."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import GuardianError, GuardrailError, InputError, PoolError, VerdictParseError
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.fallbacks import fallback
from guardrail_plugin.guardian.format import SAFE, prompt, response_prompt, windows
from guardrail_plugin.guardian.language import detect
from guardrail_plugin.guardian.manifest import Calibration, Manifest
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.guardian.tokenizer import ContentTokenizer
from guardrail_plugin.guardian.views import views
from guardrail_plugin.pool.protocol import GenerateRequest, ScoreRequest, ScoreResult

if TYPE_CHECKING:
    from guardrail_plugin.pool import InferencePool

_MAX_RESPONSE_TOKENS = 80
_MIN_RESPONSE_WORDS = 4


@dataclass(frozen=True, slots=True)
class _Plan:
    """The forward passes that one check needs."""

    requests: tuple[ScoreRequest, ...]
    truncated: bool


class Guardian:
    """A small language model that detects harmful text and answers it. Safe to share between threads and event loops.

    Use ``Guardian.load``; the constructor takes the parts that it puts together.

    Attributes:
        manifest: what the weights are.
        max_windows: most windows of one text that are scored; a longer text is judged by its first, last and evenly
            spaced windows, and its verdict says ``truncated``.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        tokenizer: ContentTokenizer,
        pool: InferencePool,
        model_key: str,
        max_windows: int = 64,
    ) -> None:
        self.manifest = manifest
        self.max_windows = max_windows
        self._layout = manifest.layout
        self._tokenizer = tokenizer
        self._pool = pool
        self._model_key = model_key

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        pool: InferencePool | None = None,
        base: str | Path | None = None,
        max_windows: int = 64,
        offline: bool = False,
    ) -> Guardian:
        """Load a guardian: the embedded one, a folder that ``guardrail train`` wrote, or a hub id.

        Weights are read when the pool first needs them. Without ``pool`` the process-wide default pool is used.

        Raises:
            ModelNotFoundError: the guardian's or its base's weights are nowhere; the message tells how to get them.
            ConfigError: the folder is no guardian, or base and adapter do not fit.
            MissingDependencyError: an extra is missing; the message names it.
        """
        from guardrail_plugin.assembly import load_guardian

        return load_guardian(model, pool=pool, base=base, max_windows=max_windows, offline=offline)

    @property
    def id(self) -> str:
        """Name and version of the weights; part of every verdict."""
        return self._model_key

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

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch. A check that fails yields its error in its place; the others are answered."""
        started = time.monotonic()
        plans = [self._plan(check) for check in checks]
        results = self._pool.score_many(_flatten(plans), timeout_s=timeout_s)
        return self._verdicts(checks, plans, results, started)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: queued work is withdrawn, running work is dropped when it ends."""
        started = time.monotonic()
        plans = [self._plan(check) for check in checks]
        results = await self._pool.ascore_many(_flatten(plans), timeout_s=timeout_s)
        return self._verdicts(checks, plans, results, started)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write the safeguard response for a blocked text.

        The model's own text is shown only if the guardian finds it safe; else, and for languages that the model does
        not write, a written response for the hazard is used. Never raises for model failures.
        """
        request = self._response_request(check, verdict)
        if request is None:
            return self._fallback(check, verdict)
        try:
            generated = self._pool.generate(request, timeout_s=timeout_s)
            text = self._tokenizer.decode(generated.token_ids).strip()
            judged = self.check_many([self._response_check(check, text)], timeout_s=timeout_s)[0]
        except (GuardianError, PoolError):
            return self._fallback(check, verdict)
        return text if _usable(text, judged) else self._fallback(check, verdict)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``. Cancellation: the decode is stopped."""
        request = self._response_request(check, verdict)
        if request is None:
            return self._fallback(check, verdict)
        try:
            generated = await self._pool.agenerate(request, timeout_s=timeout_s)
            text = self._tokenizer.decode(generated.token_ids).strip()
            judged = (await self.acheck_many([self._response_check(check, text)], timeout_s=timeout_s))[0]
        except (GuardianError, PoolError):
            return self._fallback(check, verdict)
        return text if _usable(text, judged) else self._fallback(check, verdict)

    def _plan(self, check: Check) -> _Plan | GuardrailError:
        if not check.text.strip():
            return InputError("there is no text to check: it is empty or only white space")
        requests: list[ScoreRequest] = []
        truncated = False
        for view in views(check.text):
            ids = self._tokenizer.encode(view)
            cut, left_out = windows(
                ids, size=self._layout.window_tokens, overlap=self._layout.overlap_tokens, limit=self.max_windows
            )
            truncated |= left_out
            for window in cut:
                input_ids = prompt(self._layout, self._tokenizer, check, window)
                requests.append(ScoreRequest(self._model_key, input_ids, self._layout.label_ids, prefix_len=1))
        return _Plan(tuple(requests), truncated)

    def _verdicts(
        self,
        checks: Sequence[Check],
        plans: Sequence[_Plan | GuardrailError],
        results: Sequence[ScoreResult | Exception],
        started: float,
    ) -> list[CheckOutcome]:
        seconds = time.monotonic() - started
        outcomes: list[CheckOutcome] = []
        at = 0
        for check, plan in zip(checks, plans, strict=True):
            if isinstance(plan, GuardrailError):
                outcomes.append(plan)
                continue
            mine = results[at : at + len(plan.requests)]
            at += len(plan.requests)
            outcomes.append(self._verdict(check, plan, mine, seconds))
        return outcomes

    def _verdict(
        self, check: Check, plan: _Plan, results: Sequence[ScoreResult | Exception], seconds: float
    ) -> CheckOutcome:
        calibration = self.manifest.calibration.get(check.rail, Calibration())
        worst: dict[str, float] = {}
        risk = -1.0
        for result in results:
            if isinstance(result, GuardrailError):
                return result
            if isinstance(result, Exception):
                return GuardianError(f"the model failed: {type(result).__name__}")
            if not all(map(math.isfinite, result.logprobs)):
                return VerdictParseError("the model returned numbers that are no probabilities")
            window_risk, hazards = calibrated(result.logprobs, self._layout.labels, calibration)
            if window_risk > risk:
                risk, worst = window_risk, hazards
        return Verdict(
            harmful=risk >= calibration.threshold,
            risk=risk,
            threshold=calibration.threshold,
            hazards=worst,
            hazard=max(worst, key=worst.__getitem__),
            rail=check.rail,
            guardian_id=self.id,
            seconds=seconds,
            windows=len(plan.requests),
            truncated=plan.truncated,
        )

    def _response_request(self, check: Check, verdict: Verdict | None) -> GenerateRequest | None:
        """Return what to decode, or ``None`` where the written response is the answer."""
        if verdict is None or check.rail not in ("input", "output") or detect(self._asked(check)) != "en":
            return None
        label = verdict.hazard if verdict.hazard in self._layout.taxonomy else SAFE
        # Responses are learnt on queries: for a blocked answer the query is what is answered anew.
        query = Check(text=self._asked(check), rail="input", context=check.context)
        content = self._tokenizer.encode(query.text)[: self._layout.window_tokens]
        start = response_prompt(prompt(self._layout, self._tokenizer, query, content), self._layout, label or SAFE)
        return GenerateRequest(
            self._model_key, start, max_new_tokens=_MAX_RESPONSE_TOKENS, stop_ids=frozenset({self._layout.end_id})
        )

    def _response_check(self, check: Check, response: str) -> Check:
        return Check(text=response or " ", rail="output", query=self._asked(check))

    def _fallback(self, check: Check, verdict: Verdict | None) -> str:
        asked = self._asked(check)
        hazard = verdict.hazard if verdict is not None else None
        return fallback(hazard, language=detect(asked), seed=len(asked))

    @staticmethod
    def _asked(check: Check) -> str:
        return check.query if check.rail == "output" and check.query else check.text


def calibrated(
    logprobs: Sequence[float], labels: Sequence[str], calibration: Calibration
) -> tuple[float, dict[str, float]]:
    """Return risk and probability per hazard from label log-probabilities (K,), ``safe`` first.

    The log-odds of "not safe" are divided by the temperature and shifted by the bias; hazards keep their shares of
    the risk.
    """
    p_safe = min(max(math.exp(logprobs[0]), 1e-12), 1 - 1e-12)
    harm = [math.exp(logprob) for logprob in logprobs[1:]]
    total = sum(harm)
    p_harm = min(max(total / (total + p_safe), 1e-12), 1 - 1e-12)
    log_odds = math.log(p_harm) - math.log1p(-p_harm)
    risk = 1 / (1 + math.exp(-(log_odds / calibration.temperature + calibration.bias)))
    if total == 0:
        return risk, dict.fromkeys(labels[1:], 0.0)
    return risk, {code: risk * p / total for code, p in zip(labels[1:], harm, strict=True)}


def _as_check(text: str | Check, rail: Rail) -> Check:
    if isinstance(text, Check):
        return text
    if not isinstance(text, str):
        raise InputError(f"a guardian checks text, got {type(text).__name__}")
    return Check(text, rail=rail)


def conversation(messages: Sequence[Message], *, rail: Rail = "input") -> Check:
    """Return the check of the last message, with the earlier ones as context.

    Raises:
        InputError: there is no message.
    """
    if not messages:
        raise InputError("there is no message to check")
    return Check(messages[-1].text, rail=rail, context=tuple(messages[:-1]))


def _flatten(plans: Sequence[_Plan | GuardrailError]) -> list[ScoreRequest]:
    return [request for plan in plans if isinstance(plan, _Plan) for request in plan.requests]


def _only(outcomes: Sequence[CheckOutcome]) -> Verdict:
    outcome = outcomes[0]
    if isinstance(outcome, GuardrailError):
        raise outcome
    return outcome


def _usable(text: str, judged: CheckOutcome) -> bool:
    return isinstance(judged, Verdict) and not judged.harmful and len(text.split()) >= _MIN_RESPONSE_WORDS
