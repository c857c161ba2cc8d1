"""One model call of an agent: put the output rail around the model, and see that nothing gets past it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langchain.agents.middleware import ExtendedModelResponse, ModelRequest, ModelResponse
from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langgraph.types import Command

from guardrail_langchain.held import WAITING, Aside, Held, entry, put_inside
from guardrail_langchain.settings import Settings
from guardrail_plugin import Check, Verdict
from guardrail_plugin.flow import Blocked, Edited, OnEscalate, Outcome
from guardrail_plugin.flow.rails import BLOCKED_RESPONSE
from guardrail_plugin.runnables import (
    Asked,
    Ended,
    GuardedChatModel,
    InputStage,
    ToolStage,
    aunder_config,
    model_in,
    under_config,
)

_UNTITLED = "response_format_"
"""How LangChain begins the name of a form whose schema has no title. It ends at random."""


class ModelCall:
    """The output rail of one call. Made for one ``wrap_model_call``.

    Attributes:
        request: the request with the guarded model in it.
    """

    def __init__(self, request: ModelRequest[Any], settings: Settings, *, by: str) -> None:
        self._by = by
        self._ended: list[Ended] = []
        self._settings = settings
        self._names = structured_names(request.response_format)
        self._own = frozenset(tool.name for tool in request.tools if isinstance(tool, BaseTool))
        # A structured answer is parsed in the same step that would have to be paused.
        waits = settings.on_escalate is None and request.response_format is None
        self._ask: OnEscalate | None = Aside() if waits else None
        inner = model_in(request.model)
        if isinstance(inner, GuardedChatModel):
            put_inside(inner.stage.rules.on_escalate)
        self._stage = settings.output_stage(self._ask, structured=self._names)
        self._input: InputStage = settings.input_stage(None)
        model = GuardedChatModel(
            inner=request.model,
            stage=self._stage,
            calls=self._calls(),
            listeners=(self._ended.append,),
            on_bind=None if request.response_format is None else self._bound,
            context_turns=settings.context_turns,
        )
        self._messages = request.messages
        self.request = request.override(model=model)

    def _calls(self) -> ToolStage | None:
        return (
            self._settings.tool_stage(_put_aside, structured=self._names) if "tools" in self._settings.rails else None
        )

    def _bound(self, tools: Sequence[Any]) -> dict[str, Any]:
        """Take in which of the bound tools are forms for an answer: LangChain names those whose schema has no title."""
        bound = frozenset(tool.name for tool in tools if isinstance(tool, BaseTool))
        self._names |= frozenset(name for name in bound - self._own if name.startswith(_UNTITLED))
        self._stage = self._settings.output_stage(self._ask, structured=self._names)
        return {"stage": self._stage, "calls": self._calls()}

    @property
    def blocked(self) -> ModelResponse[Any] | None:
        """What answers if the model's answer was blocked and nothing could be made of what stands in for it."""
        instead = self._ended[-1].instead if self._ended else None
        return None if instead is None else ModelResponse(result=[instead])

    def finish(self, response: ModelResponse[Any]) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Return the response with the safe message under each blocked one's id."""
        strange = self._strange(response)
        outcomes: list[Outcome] = []
        if strange:
            outcomes = self._stage.judge(strange, [self._asked()] * len(strange), [under_config(ensure_config())])
        return self._settled(response, strange, outcomes)

    async def afinish(self, response: ModelResponse[Any]) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Like ``finish``. Cancellation: passes to the guardian."""
        strange = self._strange(response)
        outcomes: list[Outcome] = []
        if strange:
            asked = [self._asked()] * len(strange)
            outcomes = await self._stage.ajudge(strange, asked, [aunder_config(ensure_config())])
        return self._settled(response, strange, outcomes)

    def _asked(self) -> Asked:
        return self._input.asked(self._messages)

    def _strange(self, response: ModelResponse[Any]) -> list[AIMessage]:
        """Return answers that did not come from the guarded model: another middleware made or replaced them."""
        return [said for said in response.result if isinstance(said, AIMessage) and self._end_of(said) is None]

    def _end_of(self, message: BaseMessage) -> Ended | None:
        ends = (end for end in reversed(self._ended) if isinstance(message, AIMessage) and end.made(message))
        return next(ends, None)

    def _held(self, message: BaseMessage, end: Ended | None) -> tuple[str, Held]:
        if end is None or end.original is None or end.outcome.verdict is None:
            raise AssertionError("asked only about what waits")
        message.id = message.id or str(uuid4())
        original = end.original.model_copy(update={"id": message.id, "name": message.name})
        return message.id, entry(original, end.outcome.verdict, by=self._by)

    def _settled(
        self, response: ModelResponse[Any], strange: list[AIMessage], outcomes: list[Outcome]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        judged: dict[int, Ended] = {}
        unseen: dict[str, None] = {}
        for message, outcome in zip(strange, outcomes, strict=True):
            if message.text == WAITING and not self._ended:
                # Another guard put it aside, and these rails have judged the words that stand in for it.
                outcome, unseen[message.id or ""] = Blocked("output", BLOCKED_RESPONSE), None
            passed = self._stage.passed(message, outcome)
            instead = passed if isinstance(passed, AIMessage) and passed is not message else None
            original = message if isinstance(outcome, Edited) else None
            judged[id(message)] = Ended(outcome, message.id, instead, original)
        ends = [judged.get(id(message)) or self._end_of(message) for message in response.result]
        result = [_instead(message, end) for message, end in zip(response.result, ends, strict=True)]
        changed = any(new is not old for new, old in zip(result, response.result, strict=True))
        held = [self._held(message, end) for message, end in zip(result, ends, strict=True) if _waits(message, end)]
        structured = None if changed and strange else response.structured_response
        response = ModelResponse(result=result, structured_response=structured)
        if not held and not unseen:
            return response
        kept = {**unseen, **dict(held)}
        return ExtendedModelResponse(model_response=response, command=Command(update={"guardrail_held": kept}))


def _waits(message: BaseMessage, end: Ended | None) -> bool:
    waits = end is not None and end.original is not None and end.outcome.verdict is not None
    return waits and message.text == WAITING


def structured_names(given: Any) -> frozenset[str]:
    """Return the names of tools that are forms for a structured answer."""
    if given is not None and not isinstance(given, ToolStrategy | ProviderStrategy):
        given = ToolStrategy(schema=given.schema if isinstance(given, AutoStrategy) else given)
    return frozenset(spec.name for spec in given.schema_specs) if isinstance(given, ToolStrategy) else frozenset()


def _instead(message: BaseMessage, end: Ended | None) -> BaseMessage:
    if end is None or end.instead is None or not isinstance(message, AIMessage):
        return message
    if message.response_metadata.get("guardrail") == end.instead.response_metadata.get("guardrail"):
        return message  # it has been replaced where the model was called
    return end.instead.model_copy(
        update={"id": message.id, "name": message.name, "usage_metadata": message.usage_metadata}
    )


def _put_aside(verdict: Verdict, check: Check) -> str:
    """Answer for the person who is asked in a step of its own."""
    return WAITING
