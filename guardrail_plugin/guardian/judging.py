"""What happens to a batch of checks, as a generator without I/O: requests out, results in, verdicts at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError, GuardrailError, InputError, PoolError, VerdictParseError
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.families.protocol import Family, Pass, Reading
from guardrail_plugin.guardian.format import windows
from guardrail_plugin.guardian.manifest import Calibration
from guardrail_plugin.guardian.minors import spoken, with_minors
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.guardian.views import views
from guardrail_plugin.pool.protocol import ScoreRequest, ScoreResult

Results: TypeAlias = Sequence[ScoreResult | Exception]
_Answer: TypeAlias = tuple[float, ...] | GuardrailError
Judging: TypeAlias = Generator[list[ScoreRequest], Results, list[CheckOutcome]]

# Below this risk no second question names the harm: no sensible threshold acts there, and most texts are harmless.
NAMING_FLOOR = 0.05
# The same where there is a name already, which a second look may only correct.
RENAMING_FLOOR = 0.25
_UNNAMED = 3
_ALMOST_0 = 1e-12
_ROUNDING = 1e-3  # float32 log-probabilities may end a little above zero
# Rails that a guardian may be calibrated for under another name: its own format shows a document as a tool's output.
_CALIBRATED_AS: Mapping[Rail, Rail] = {"document": "tool_output"}


@dataclass(frozen=True, slots=True)
class _Plan:
    """The views and windows of one check, and the questions about each window."""

    views: tuple[str, ...] = field(repr=False)
    windows: tuple[Sequence[int], ...]
    passes: tuple[tuple[Pass, ...], ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Finding:
    """One window, or one harm in it: its ids, what was read, and after calibration the risk and that of each harm.

    Harms that were judged alone may sum to more than the risk until they are parted.
    """

    content: Sequence[int]
    reading: Reading
    risk: float
    harms: Mapping[str, float]

    def share(self, native: str) -> float:
        """Return the risk of this harm."""
        return self.harms.get(native, 0.0)


@dataclass(frozen=True, slots=True)
class _Found:
    """The worst window of a check, and the others that a policy may care for: each the worst of another harm."""

    windows: tuple[_Finding, ...]
    incomplete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Turns checks into verdicts for one family of models.

    Attributes:
        family: how texts are shown and answers read.
        calibration: per rail; a document's is that of tool outputs where it has none of its own.
        model_key: of the model on the pool.
        guardian_id: what verdicts carry.
        max_windows: most windows of one view that are scored.
    """

    family: Family
    calibration: Mapping[Rail, Calibration]
    model_key: str
    guardian_id: str
    max_windows: int

    def judge(self, checks: Sequence[Check]) -> Judging:
        """Yield the requests of all checks as one batch, then those that name the harm of what is risky.

        What the driver throws in at the second batch is dropped: the risk is known, only its name is not.
        """
        started = time.monotonic()
        plans = [self._plan(check) for check in checks]
        passes = [p for plan in plans if isinstance(plan, _Plan) for window in plan.passes for p in window]
        answers = iter(_answers(passes, (yield self._requests(passes))))
        findings = [
            self._found(check, plan, answers) if isinstance(plan, _Plan) else plan
            for check, plan in zip(checks, plans, strict=True)
        ]
        asked = {
            (i, k): questions
            for i, (check, found) in enumerate(zip(checks, findings, strict=True))
            if isinstance(found, _Found)
            for k, finding in enumerate(found.windows)
            if (questions := self._naming(check, finding))
        }
        naming = [p for questions in asked.values() for p in questions]
        if naming:
            try:
                named = iter(_answers(naming, (yield self._requests(naming))))
            except (GuardianError, PoolError):
                named = iter([GuardianError("the harm was not named")] * len(naming))
            rows = {place: [next(named) for _ in questions] for place, questions in asked.items()}
            findings = [
                self._named(check, found, i, rows)
                for i, (check, found) in enumerate(zip(checks, findings, strict=True))
            ]
        seconds = time.monotonic() - started
        return [
            self._verdict(check, found, plan, seconds)
            for check, found, plan in zip(checks, findings, plans, strict=True)
        ]

    def _plan(self, check: Check) -> _Plan | GuardrailError:
        if not check.text.strip():
            return InputError("there is no text to check: it is empty or only white space")
        if check.rail not in self.family.rails:
            served = ", ".join(sorted(self.family.rails))
            return GuardianError(f"the family {self.family.name!r} does not judge the {check.rail} rail, only {served}")
        found: list[Sequence[int]] = []
        truncated = False
        size, overlap = self.family.window.tokens, self.family.window.overlap
        read = views(check.text)
        for view in read:
            cut, left_out = windows(self.family.encode(view), size=size, overlap=overlap, limit=self.max_windows)
            truncated |= left_out
            found += cut
        passes = tuple(self.family.passes(check, window) for window in found)
        return _Plan(read, tuple(found), passes, truncated)

    def _requests(self, passes: Sequence[Pass]) -> list[ScoreRequest]:
        return [
            ScoreRequest(
                self.model_key,
                (*one.input_ids, *branch.suffix),
                branch.next_ids,
                prefix_len=len(one.input_ids) if branch.suffix else one.prefix_len,
            )
            for one in passes
            for branch in one.labels.branches
        ]

    def _found(self, check: Check, plan: _Plan, answers: Iterator[_Answer]) -> _Found | GuardrailError:
        """Return the windows that count. Takes exactly the check's own answers, whatever they are.

        A window that could not be read is a failure, unless another one is harmful.
        """
        calibration = self._calibration_of(check.rail)
        rows = [[next(answers) for _ in questions] for questions in plan.passes]
        read = [self._finding(content, row, calibration) for content, row in zip(plan.windows, rows, strict=True)]
        found = [one for one in read if isinstance(one, _Finding)]
        failure = next((one for one in read if isinstance(one, GuardrailError)), None)
        worst = max(found, key=lambda one: one.risk, default=None)
        if failure is not None and (worst is None or worst.risk < calibration.threshold):
            return failure
        if worst is None:
            return InputError("there is no text to check: nothing of it is left as tokens")
        return _Found((worst, *_of_other_harms(worst, found)), failure is not None)

    def _finding(
        self, content: Sequence[int], row: Sequence[_Answer], calibration: Calibration
    ) -> _Finding | GuardrailError:
        sound = _sound(row)
        if isinstance(sound, GuardrailError):
            return sound
        reading = self.family.read(sound)
        if not _probable(reading):
            return VerdictParseError("the model returned numbers that are no probabilities")
        risk = scaled(reading.risk, calibration)
        return _Finding(content, reading, risk, _harms(reading, risk, calibration))

    def _calibration_of(self, rail: Rail) -> Calibration:
        known = self.calibration.get(rail) or self.calibration.get(_CALIBRATED_AS.get(rail, rail))
        return known or Calibration()

    def _naming(self, check: Check, found: _Finding) -> tuple[Pass, ...]:
        floor = RENAMING_FLOOR if found.reading.shares else NAMING_FLOOR
        return self.family.naming(check, found.content) if found.risk >= floor else ()

    def _named(
        self,
        check: Check,
        found: _Found | GuardrailError,
        place: int,
        rows: Mapping[tuple[int, int], Sequence[_Answer]],
    ) -> _Found | GuardrailError:
        """Return the windows with their harm named; a failure to name it takes nothing from the risk."""
        if isinstance(found, GuardrailError):
            return found
        calibration = self._calibration_of(check.rail)
        windows = list(found.windows)
        for k, finding in enumerate(windows):
            sound = _sound(rows.get((place, k), ()))
            if not sound or isinstance(sound, GuardrailError):
                continue
            reading = self.family.name_harm(finding.reading, sound)
            if _probable(reading):
                windows[k] = replace(finding, reading=reading, harms=_harms(reading, finding.risk, calibration))
        return replace(found, windows=tuple(windows))

    def _parts(self, windows: Sequence[_Finding]) -> list[_Finding]:
        """Return the windows and, behind them, the harms judged alone of which no window as a whole tells enough.

        What a policy allows it takes from the whole's risk; another harm that was judged alone is none the less likely.
        """
        parted = [self._parted(one) for one in windows]
        wholes = [parts[0] for parts in parted]
        alone = [one for parts in parted for one in parts[1:]]
        return [*wholes, *(one for one in _of_other_harms(wholes[0], [*wholes, *alone]) if one in alone)]

    def _parted(self, found: _Finding) -> list[_Finding]:
        """Return a window as a whole and, where its harms were judged alone, each of them with its own risk.

        Of the whole's risk the likeliest harm takes its own, and each other one what is left of it; those without a
        code come last, since no policy can allow them. Labels of one code are one harm: the likeliest of them.
        """
        if not found.reading.independent:
            return [found]
        codes, shares = self.family.codes, found.reading.shares
        likeliest: dict[str | None, str] = {}
        for native in sorted(shares, key=shares.__getitem__, reverse=True):
            likeliest.setdefault(codes.get(native), native)
        natives = sorted(likeliest.values(), key=lambda label: codes.get(label) is None)
        left = found.risk
        whole: dict[str, float] = {}
        for native in natives:
            whole[native] = min(found.share(native), left)
            left -= whole[native]
        alone = [
            _Finding(
                found.content,
                Reading(shares[native], {native: shares[native]}),
                found.share(native),
                {native: found.share(native)},
            )
            for native in natives
        ]
        return [replace(found, harms={native: part for native, part in whole.items() if part > 0}), *alone]

    def _verdict(
        self, check: Check, found: _Found | GuardrailError, plan: _Plan | GuardrailError, seconds: float
    ) -> CheckOutcome:
        if isinstance(plan, GuardrailError):
            return plan
        if isinstance(found, GuardrailError):
            return found
        worst, *others = (self._verdict_on(check, one, plan, seconds) for one in self._parts(found.windows))
        return replace(worst, members=tuple(others), incomplete=found.incomplete)

    def _verdict_on(self, check: Check, found: _Finding, plan: _Plan, seconds: float) -> Verdict:
        threshold = self._calibration_of(check.rail).threshold
        shares = found.reading.shares
        native = max(shares, key=shares.__getitem__, default=None)
        hazard = None if native is None else self.family.codes.get(native)
        plain = self._hazards(found)
        hazards = with_minors(plain, spoken(check, plan.views))
        if hazards != plain:
            hazard = max(hazards, key=hazards.__getitem__)
        return Verdict(
            harmful=found.risk >= threshold,
            risk=found.risk,
            threshold=threshold,
            hazards=hazards,
            hazard=hazard,
            rail=check.rail,
            guardian_id=self.guardian_id,
            seconds=seconds,
            windows=len(plan.windows),
            truncated=plan.truncated,
            native_label=None if native == hazard else native,
        )

    def _hazards(self, found: _Finding) -> dict[str, float]:
        """Return the risk per hazard code; harm without a code is in the risk alone."""
        hazards: dict[str, float] = {}
        for native, risk in found.harms.items():
            code = self.family.codes.get(native)
            if code is not None:
                hazards[code] = hazards.get(code, 0.0) + risk
        return hazards


def _of_other_harms(worst: _Finding, found: Sequence[_Finding]) -> list[_Finding]:
    """Return, per harm, the finding in which it is likeliest, where that is another one than the worst.

    A policy may allow the harm of the worst one. Where none is named yet, the next riskiest ones are returned.
    """
    others = [one for one in found if one is not worst and one.risk >= NAMING_FLOOR]
    chosen: list[_Finding] = []
    for native in dict.fromkeys(native for one in others for native in one.harms):
        likeliest = max((worst, *others), key=lambda one: one.share(native))
        if likeliest is not worst and likeliest.share(native) >= NAMING_FLOOR and likeliest not in chosen:
            chosen.append(likeliest)
    unnamed = sorted((one for one in others if not one.reading.shares), key=lambda one: -one.risk)
    return [*chosen, *unnamed[:_UNNAMED]]


def _harms(reading: Reading, risk: float, calibration: Calibration) -> dict[str, float]:
    """Return the calibrated risk per native label: its part of the whole; judged alone its own, at most the whole."""
    shares = reading.shares
    if reading.independent:
        return {native: min(scaled(p, calibration), risk) for native, p in shares.items()}
    total = math.fsum(shares.values())
    return {native: risk * p / total if total > 0 else 0.0 for native, p in shares.items()}


def _probable(reading: Reading) -> bool:
    """Tell whether what has to be probabilities is. Sums over spellings round above one where all is sure."""
    own = tuple(reading.shares.values()) if reading.independent else ()
    return all(0.0 <= p <= 1.0 + 2 * _ROUNDING for p in (reading.risk, *own))


def scaled(risk: float, calibration: Calibration) -> float:
    """Return a calibrated risk: log-odds divided by the temperature and shifted by the bias."""
    p = min(max(risk, _ALMOST_0), 1 - _ALMOST_0)
    log_odds = math.log(p) - math.log1p(-p)
    return 1 / (1 + math.exp(-(log_odds / calibration.temperature + calibration.bias)))


def calibrated(
    logprobs: Sequence[float], labels: Sequence[str], calibration: Calibration
) -> tuple[float, dict[str, float]]:
    """Return risk and probability per hazard from label log-probabilities (K,), ``safe`` first.

    Hazards keep their shares of the risk.
    """
    p_safe = max(math.exp(logprobs[0]), _ALMOST_0)
    harm = [math.exp(logprob) for logprob in logprobs[1:]]
    total = math.fsum(harm)
    risk = scaled(total / (total + p_safe), calibration)
    if total == 0:
        return risk, dict.fromkeys(labels[1:], 0.0)
    return risk, {code: risk * p / total for code, p in zip(labels[1:], harm, strict=True)}


def _answers(passes: Sequence[Pass], results: Results) -> list[_Answer]:
    """Return one row of label log-probabilities per question, or why there is none."""
    answers: list[_Answer] = []
    at = 0
    for one in passes:
        mine = results[at : at + len(one.labels.branches)]
        at += len(one.labels.branches)
        rows = [result.logprobs for result in mine if isinstance(result, ScoreResult)]
        answers.append(one.labels.read(rows) if len(rows) == len(mine) else _failure(mine))
    return answers


def _failure(results: Results) -> GuardrailError:
    error = next(result for result in results if isinstance(result, Exception))
    return error if isinstance(error, GuardrailError) else GuardianError(f"the model failed: {type(error).__name__}")


def _sound(row: Sequence[_Answer]) -> list[tuple[float, ...]] | GuardrailError:
    """Return the answers if all are log-probabilities, else the first reason why not."""
    sound: list[tuple[float, ...]] = []
    for answer in row:
        if isinstance(answer, GuardrailError):
            return answer
        if not all(value <= _ROUNDING for value in answer) or not any(map(math.isfinite, answer)):
            return VerdictParseError("the model returned numbers that are no probabilities")
        sound.append(answer)
    return sound
