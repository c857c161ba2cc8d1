"""``POST /v1/moderations``, in OpenAI's schema, from the guardian's hazards."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guardrail_gateway.bodies import as_object
from guardrail_gateway.gateway import body_of, desk_of, gateway_of
from guardrail_gateway.problems import Problem, bad_request
from guardrail_plugin import Check, GuardrailError, Policy, Verdict
from guardrail_plugin.flow import Allowed, Blocked
from guardrail_plugin.runnables.content import text_in

_MAX_INPUTS = 256

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "harassment": ("S5", "S10"),
    "harassment/threatening": (),
    "hate": ("S10",),
    "hate/threatening": (),
    "illicit": ("S2", "S14", "S9"),
    "illicit/violent": ("S9",),
    "self-harm": ("S11",),
    "self-harm/intent": (),
    "self-harm/instructions": (),
    "sexual": ("S12", "S3"),
    "sexual/minors": ("S4",),
    "violence": ("S1", "S9"),
    "violence/graphic": (),
}
"""OpenAI's categories and the MLCommons hazards that count as them. Ours has no finer kinds: those stay at 0.

Hazards without a category of OpenAI's (S6, S7, S8, S13, PI) flag an input all the same, beside the categories.
"""


async def moderations(request: Request) -> Response:
    """Judge texts. An answer for every input, or an error: a text without a verdict is never passed off as clean.

    Cancellation: passes to the guardian, which withdraws the work.
    """
    desk = desk_of(request, operation="moderations")
    body = await body_of(request)
    desk.note.asked_for(body.get("model"), streamed=False)
    checks = [Check(text, rail="input") for text in _inputs(body.get("input"))]
    guardian = gateway_of(request).service.guardian
    outcomes = await guardian.acheck_many(checks, timeout_s=desk.policy.timeout_s)
    results: list[dict[str, object]] = []
    for check, outcome in zip(checks, outcomes, strict=True):
        if isinstance(outcome, GuardrailError):
            raise Problem.of(outcome)
        result, flagged = _result(outcome, desk.policy)
        results.append(result)
        verdict, ruling = desk.policy.deciding(outcome), desk.policy.ruling(outcome)
        told = Blocked("input", "", verdict, ruling=ruling) if flagged else Allowed("input", verdict, ruling=ruling)
        desk.tell(told, seconds=outcome.seconds, checks=[check])
    return JSONResponse({"id": f"modr-{uuid.uuid4().hex[:24]}", "model": guardian.id, "results": results})


def _inputs(given: object) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not 1 <= len(given) <= _MAX_INPUTS:
        raise bad_request(f"input must be text, or a list of 1 to {_MAX_INPUTS} texts.", param="input")
    if all(isinstance(item, str) for item in given):
        return [str(item) for item in given]
    parts = [as_object(item) for item in given]
    if not all(part.get("type") == "text" for part in parts):
        raise bad_request("Only text can be judged: input holds something else.", param="input")
    return [text_in(given)]


def _result(verdict: Verdict, policy: Policy) -> tuple[dict[str, object], bool]:
    flagged = policy.action(verdict) != "allow"
    parts, verdict = (verdict, *verdict.members), policy.deciding(verdict)
    threshold = policy.threshold_for(verdict)
    scores = {
        category: max(round(min(sum(one.hazards.get(code, 0.0) for code in codes), 1.0), 6) for one in parts)
        for category, codes in CATEGORIES.items()
    }
    # An input is flagged for its likeliest hazard even where the risk is spread over several.
    allowed = {code for code, rule in policy.hazards.items() if rule.action == "allow"}
    met = {
        category: flagged and (verdict.hazard in codes or (scores[category] >= threshold and not allowed >= set(codes)))
        for category, codes in CATEGORIES.items()
    }
    return {
        "flagged": flagged,
        "categories": met,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
        "guardrail": verdict.as_dict(),
    }, flagged
