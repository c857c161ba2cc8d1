"""What runs inside a guarded tool: its events, and what it raises, whose text others show to models."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, ToolException, tool

from guardrail_plugin import Policy
from guardrail_plugin.core.errors import GuardianError, PoolOverloaded
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import ToolBlockedError, ToolPolicy, guard_tool
from guardrail_plugin.testing import ScriptedGuardian, allow_all, verdict
from guardrail_plugin.testing.exits import EXITS

RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="PI"), "DOWN": GuardianError("down")}


def call(name: str = "work", **args: Any) -> dict[str, Any]:
    return {"type": "tool_call", "name": name, "args": args, "id": "call-1"}


def raising(error: BaseException, **options: Any) -> BaseTool:
    def work(q: str) -> str:
        """Work."""
        raise error

    made: BaseTool = tool(**options)(work)
    return made


async def test_a_tool_that_dispatches_custom_events_works_and_nobody_hears_them() -> None:
    @tool
    def work(q: str) -> str:
        """Work."""
        dispatch_custom_event("progress", {"read": "the BOMB"})
        return "done"

    @tool
    async def later(q: str) -> str:
        """Work."""
        await adispatch_custom_event("progress", {"read": "the BOMB"})
        return "done"

    assert guard_tool(work, guardian=allow_all()).invoke({"q": "x"}) == "done"
    for bare in (work, later):
        assert await guard_tool(bare, guardian=allow_all()).ainvoke({"q": "x"}) == "done"
    for exit_ in EXITS.values():
        left = repr(await exit_(guard_tool(work, guardian=ScriptedGuardian(RULE)), {"q": "x"}))
        assert "done" in left
        assert "BOMB" not in left


@pytest.mark.parametrize("kind", [ValueError, ToolException])
async def test_the_text_of_an_exception_is_judged(kind: type[Exception]) -> None:
    safe = guard_tool(raising(kind("the page says: BOMB")), guardian=ScriptedGuardian(RULE))
    for message in (safe.invoke(call(q="x")), await safe.ainvoke(call(q="x"))):
        assert "BOMB" not in repr(message)
        assert (message.status, message.tool_call_id) == ("error", "call-1")
        assert message.response_metadata["guardrail"]["rail"] == "tool_output"
    strict = guard_tool(raising(kind("the page says: BOMB")), guardian=ScriptedGuardian(RULE), handle="raise")
    with pytest.raises(ToolBlockedError):
        strict.invoke(call(q="x"))
    with pytest.raises(ToolBlockedError):
        await strict.ainvoke(call(q="x"))
    down = guard_tool(raising(kind("DOWN")), guardian=ScriptedGuardian(RULE)).invoke(call(q="x"))
    assert (down.status, "DOWN" in repr(down)) == ("error", False)


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


def noted(error: Exception, note: str) -> Exception:
    error.__notes__ = [note]  # type: ignore[attr-defined]
    return error


class Quiet(Exception):
    """Tells its arguments to those who ask for its ``repr`` only, as ``ToolNode`` does."""

    def __str__(self) -> str:
        return "it failed"


class Group(Exception):
    """Like those of Python 3.11, which 3.10 lacks."""

    def __init__(self, text: str, exceptions: list[Exception]) -> None:
        super().__init__(text)
        self.exceptions = tuple(exceptions)


@pytest.mark.parametrize(
    "error",
    [
        Quiet("the page says: BOMB"),
        caused(ValueError("it failed"), KeyError("the BOMB")),
        noted(ValueError("it failed"), "while reading the BOMB"),
        Group("some failed", [ValueError("fine"), caused(ValueError("it failed"), KeyError("the BOMB"))]),
    ],
    ids=["repr", "cause", "note", "group"],
)
async def test_whatever_shows_of_an_exception_is_judged(error: Exception) -> None:
    safe = guard_tool(raising(error), guardian=ScriptedGuardian(RULE))
    for message in (safe.invoke(call(q="x")), await safe.ainvoke(call(q="x"))):
        assert (message.status, "BOMB" in repr(message)) == ("error", False)


@pytest.mark.parametrize("kind", [ToolException, ValueError])
async def test_an_error_out_of_a_tools_own_error_handling_is_judged(kind: type[Exception]) -> None:
    def handle(error: ToolException) -> str:
        raise error if kind is ToolException else kind(f"cannot handle {error}")

    def some(error: ToolException) -> str:
        return "read again"

    bare = raising(ToolException("the page says: BOMB"))
    bare.handle_tool_error = handle
    safe = guard_tool(bare, guardian=ScriptedGuardian(RULE))
    for message in (safe.invoke(call(q="x")), await safe.ainvoke(call(q="x"))):
        assert (message.status, "BOMB" in repr(message)) == ("error", False)
    # What it answers in place of the error is all that anybody sees.
    bare.handle_tool_error = some
    handled = guard_tool(bare, guardian=ScriptedGuardian(RULE)).invoke(call(q="x"))
    assert (handled.status, handled.content) == ("error", "read again")


async def test_a_harmless_exception_passes_as_it_is() -> None:
    error = ValueError("no such page")
    trusted = guard_tool(
        raising(ValueError("BOMB")), guardian=ScriptedGuardian(RULE), tools=ToolPolicy(trust_outputs=["work"])
    )
    with pytest.raises(ValueError, match="BOMB"):
        trusted.invoke(call(q="x"))
    for response_format in ("content", "content_and_artifact"):
        safe = guard_tool(raising(error, response_format=response_format), guardian=ScriptedGuardian(RULE))
        with pytest.raises(ValueError, match="no such page") as caught:
            safe.invoke(call(q="x"))
        assert caught.value is error
        with pytest.raises(ValueError, match="no such page"):
            await safe.ainvoke(call(q="x"))


@pytest.mark.parametrize("error", [PoolOverloaded("full", retry_after_s=1.0), KeyboardInterrupt()], ids=repr)
async def test_what_says_nothing_of_a_tools_is_not_judged(error: BaseException) -> None:
    judge = ScriptedGuardian(RULE)
    with pytest.raises(type(error)):
        guard_tool(raising(error), guardian=judge).invoke(call(q="x"))
    assert [check.rail for check in judge.checks] == ["tool_call"]


async def test_control_flow_of_langgraph_is_not_judged() -> None:
    errors = pytest.importorskip("langgraph.errors")
    judge = ScriptedGuardian(RULE)
    with pytest.raises(errors.GraphInterrupt):
        await guard_tool(raising(errors.GraphInterrupt(("BOMB",))), guardian=judge).ainvoke(call(q="x"))
    assert [check.rail for check in judge.checks] == ["tool_call"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_messages_that_a_sub_agent_sends_to_the_graph_above_are_judged(way: str) -> None:
    errors, types = pytest.importorskip("langgraph.errors"), pytest.importorskip("langgraph.types")

    async def sent(text: str, **settings: Any) -> tuple[Any, BaseException]:
        message = ToolMessage(text, tool_call_id="call-1", id="1")
        command = types.Command(graph="above", goto="next", update={"messages": [message], "n": 7})
        bare = raising(errors.ParentCommand(command), **settings.pop("options", {}))
        safe = guard_tool(bare, guardian=ScriptedGuardian(RULE), **settings)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            safe.invoke(call(q="x")) if way == "invoke" else await safe.ainvoke(call(q="x"))
        return command, caught.value

    for options in ({}, {"response_format": "content_and_artifact"}):
        _, error = await sent("the BOMB", options=options)
        assert type(error) is errors.ParentCommand
        [left] = error.args
        assert (left.graph, left.goto, left.update["n"]) == ("above", "next", 7)
        [message] = left.update["messages"]
        assert (message.id, message.tool_call_id, message.status) == ("1", "call-1", "error")
        assert "BOMB" not in repr(left)
    for harmless in (await sent("fine"), await sent("the BOMB", tools=ToolPolicy(trust_outputs=["work"]))):
        assert harmless[1].args[0] is harmless[0]
    assert isinstance((await sent("the BOMB", handle="raise"))[1], ToolBlockedError)
    asking = Policy(hazards={"PI": {"action": "escalate"}})
    _, edited = await sent("the BOMB", policy=asking, on_escalate=lambda verdict, check: "say this")
    [message] = edited.args[0].update["messages"]
    assert (message.text, message.status) == ("say this", "success")


def test_what_is_said_in_place_of_a_failure_is_one_too() -> None:
    asking = Policy(hazards={"PI": {"action": "escalate"}})
    safe = guard_tool(
        raising(ValueError("the BOMB")),
        guardian=ScriptedGuardian(RULE),
        policy=asking,
        on_escalate=lambda verdict, check: "it failed",
    )
    message = safe.invoke(call(q="x"))
    assert (message.text, message.status) == ("it failed", "error")


class Page:
    """Something big that a tool holds."""


async def test_a_withheld_exception_frees_what_its_frames_held() -> None:
    held: list[weakref.ref[Page]] = []

    @tool
    def work(q: str) -> str:
        """Work."""
        page = Page()
        held.append(weakref.ref(page))
        raise ValueError("BOMB")

    safe = guard_tool(work, guardian=ScriptedGuardian(RULE))

    async def run() -> None:
        for way in ("invoke", "ainvoke"):
            safe.invoke(call(q="x")) if way == "invoke" else await safe.ainvoke(call(q="x"))

    gc.collect()
    gc.disable()
    try:
        await run()
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()
