"""Whether a tool may be called with these arguments, and whether what it returned may be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, ConfigError, GuardrailError, InputError
from guardrail_plugin.core.verdict import Action, Verdict
from guardrail_plugin.flow.effects import Classify, Steps
from guardrail_plugin.flow.outcomes import Allowed, Blocked, Failed, Outcome
from guardrail_plugin.flow.rails import Rules, ask_person, no_verdict, unjudged

CALL_BLOCKED = "This tool call was blocked by a safety check{hazard}. Do not repeat it."
CALL_UNJUDGED = "This tool call was not made, because the safety check could not be completed."
CALL_FORBIDDEN = "This tool may not be called here."
OUTPUT_BLOCKED = "The tool's output was withheld by a safety check{hazard}."
CALL_TOO_LONG = "This tool call was not made, because its arguments are too long to be checked in full."
OUTPUT_TOO_LONG = (
    "The tool's output was withheld, because it is too long to be checked in full. Ask for less at a time."
)
OUTPUT_UNCHECKABLE = (
    "The tool's output was withheld, because it holds a file that cannot be checked. Ask for its text alone."
)
OUTPUT_UNJUDGED = "The tool's output was withheld, because the safety check could not be completed."


@dataclass(frozen=True, slots=True)
class _Reasons:
    blocked: str
    too_long: str
    unjudged: str


_CALL = _Reasons(CALL_BLOCKED, CALL_TOO_LONG, CALL_UNJUDGED)
_OUTPUT = _Reasons(OUTPUT_BLOCKED, OUTPUT_TOO_LONG, OUTPUT_UNJUDGED)
_GLOB = frozenset("*?[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPolicy:
    """Which tools are treated otherwise than the rest. Names are compared exactly: there are no patterns.

    Attributes:
        allow: the only tools that may be called; ``None``: any.
        always_escalate: tools whose every call a person decides about, whatever the verdict; without anyone to ask
            they are blocked.
        trust_arguments: tools whose arguments are not judged.
        trust_outputs: tools whose outputs are not judged.
    """

    allow: frozenset[str] | None = None
    always_escalate: frozenset[str] = frozenset()
    trust_arguments: frozenset[str] = frozenset()
    trust_outputs: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        allow: Iterable[str] | None = None,
        always_escalate: Iterable[str] = (),
        trust_arguments: Iterable[str] = (),
        trust_outputs: Iterable[str] = (),
    ) -> None:
        """Check the names.

        Raises:
            ConfigError: a lone string, something that is no name, or a pattern.
        """
        object.__setattr__(self, "allow", None if allow is None else _names("allow", allow))
        for setting, given in (
            ("always_escalate", always_escalate),
            ("trust_arguments", trust_arguments),
            ("trust_outputs", trust_outputs),
        ):
            object.__setattr__(self, setting, _names(setting, given))


def _names(setting: str, given: Iterable[str]) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"{setting} must be tool names, got {given!r}; write [{given!r}]")
    names = frozenset(given)
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{setting} must be tool names, got {name!r}")
        if _GLOB & set(name):
            raise ConfigError(f"{setting}: {name!r} looks like a pattern; tool names are compared exactly")
    return names


def tool_call_rail(check: Check, *, name: str, tools: ToolPolicy, rules: Rules) -> Steps[Outcome]:
    """Decide whether a tool is called. No safeguard response is written: the reason goes to a model."""
    if tools.allow is not None and name not in tools.allow:
        return Blocked("tool_call", CALL_FORBIDDEN)
    must_ask = name in tools.always_escalate
    if name in tools.trust_arguments and not must_ask:
        return Allowed("tool_call")
    return (yield from _judged(check, rules=rules, must_ask=must_ask, reasons=_CALL))


def tool_output_rail(check: Check, *, rules: Rules, files: Sequence[str] = ()) -> Steps[Outcome]:
    """Decide whether a model may read what a tool, or a document, says. Empty text needs no verdict.

    Args:
        files: kinds of files in it that a model may read and no rail can: ``rules.on_uncheckable`` decides. Images,
            audio and video are none of these.
    """
    outcome: Outcome = Allowed(check.rail)
    if check.text.strip():
        outcome = yield from _judged(check, rules=rules, must_ask=False, reasons=_OUTPUT)
    passes = outcome.verdict is not None and rules.on_uncheckable == "allow"
    if not files or passes or not isinstance(outcome, Allowed):
        return outcome
    what = ", ".join(files)
    error = InputError(f"a tool's output holds {what} that cannot be read; return text, or set on_uncheckable")
    return _without_verdict(error, check=check, rules=rules, must_ask=False, reason=OUTPUT_UNCHECKABLE)


def _judged(check: Check, *, rules: Rules, must_ask: bool, reasons: _Reasons) -> Steps[Outcome]:
    answer = yield Classify(check, rules.policy.timeout_s)
    if isinstance(answer, Verdict):
        answer = rules.policy.deciding(answer)
    if not isinstance(answer, Verdict) or (ruling := rules.policy.ruling(answer)).cause == "incomplete":
        error = no_verdict(answer)
        return _without_verdict(error, check=check, rules=rules, must_ask=must_ask, reason=reasons.unjudged)
    action: Action = ruling.action
    if action == "allow" and must_ask:
        action = "escalate"
    if action == "allow":
        return Allowed(check.rail, answer, ruling=ruling)
    if action == "escalate" and (told := (yield from ask_person(check, answer, ruling, rules=rules))) is not None:
        return told
    if ruling.cause == "truncated":
        return Blocked(check.rail, reasons.too_long, replace(answer, hazard=None), action, ruling=ruling)
    hazard = f" ({answer.hazard})" if answer.hazard and answer.harmful else ""
    return Blocked(check.rail, reasons.blocked.format(hazard=hazard), answer, action, ruling=ruling)


def _without_verdict(error: GuardrailError, *, check: Check, rules: Rules, must_ask: bool, reason: str) -> Outcome:
    outcome = unjudged(error, rail=check.rail, rules=rules)
    if isinstance(outcome, Failed) and isinstance(outcome.error, BlockedError):
        return Blocked(check.rail, reason, error=error)  # whether blocks raise is the tool's own setting
    if isinstance(outcome, Allowed) and must_ask:
        return Blocked(check.rail, reason, None, "escalate", error)
    return replace(outcome, response=reason) if isinstance(outcome, Blocked) else outcome
