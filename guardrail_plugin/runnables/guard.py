"""``guard()``: the public door to ``GuardedRunnable``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.runnables.utils import Input, Output

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow import OnEscalate, Release, WindowSetting
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.answers import OutputText
from guardrail_plugin.runnables.construction import GuardRail
from guardrail_plugin.runnables.guarded import GuardedRunnable
from guardrail_plugin.runnables.input_keys import InputKey
from guardrail_plugin.runnables.stage import OnBlock


def guard(
    runnable: Runnable[Input, Output] | Callable[[Input], Output],
    *,
    guardian: GuardianProtocol,
    policy: Policy | None = None,
    rails: Sequence[GuardRail] = ("input",),
    input_key: InputKey | None = None,
    output_type: object = None,
    output_text: OutputText | None = None,
    window: WindowSetting = "sentence",
    release: Release = "checked",
    overlap: bool = False,
    on_block: OnBlock | Callable[[Verdict | None], Any] | None = None,
    on_uncheckable: OnFailure = "block",
    on_escalate: OnEscalate | None = None,
    context_turns: int = 6,
    name: str | None = None,
) -> GuardedRunnable[Input, Output]:
    """Put rails around a Runnable, and a responder in its place. Returns a new Runnable of the same types.

    The input rail judges the latest user turn: all user messages after the last assistant message, with up to
    ``context_turns`` turns before it for context. What the guardian blocks never reaches ``runnable``.
    Earlier turns are not judged again: they were when they were asked. So the history must be the application's own;
    where clients send it, and could make it up, judge it first (the gateway does). System messages are the developer's.
    What was blocked does not belong into a history, where the next call's model would read it: neither a turn nor an
    answer. What keeps one stands between the rails: ``guard(with_history(guard(chain, rails=("output",))))``.

    The output rail judges the answer together with the query, and each of its tool calls on its own. Streams release
    only what has been judged, window by window; each window is judged with what stands before it, and the answer as a
    whole before its last window leaves. A block closes the chain's stream, and the safeguard response takes the place
    of what was held, under the same message id, without tool calls. What left before a block cannot be taken back from
    a stream: messages tell its length in ``response_metadata["guardrail"]["released_characters"]``. The first
    chunk leaves later than the chain's own by one window and one check; async streams read on while a check is out.

    With the output rail, what the chain raises leaves unchanged if it cannot quote the model: time limits, connections,
    a provider's statuses, what a model raises before any has said something, and, in chains that hold no functions,
    whatever else comes before that. Parsers' and other errors become ``ChainError``, which names their type and place.
    So do an interrupt and a command to a parent graph that carry text out of a guarded LangGraph graph, past the rail:
    guard the model or the inner node instead, or put ``guardrail_node`` or ``GuardrailMiddleware`` inside the graph.

    Wrap the whole of what can answer: in ``guard(a).with_fallbacks([b])`` a rail that raises is one more failure,
    and ``b`` gets the input unjudged. Write ``guard(a.with_fallbacks([b]))``.

    Args:
        runnable: any Runnable, or a function (sync or async) that LangChain can make into one.
        guardian: who judges and writes safeguard responses.
        policy: when to act and how. ``None``: the guardian's calibrated thresholds, block, closed on failure.
        rails: ``"input"``, ``"output"`` or both. With ``"output"``, or ``overlap``, the runs inside the chain are kept
            from the caller's callbacks; see ``GuardedRunnable``.
        input_key: for dict inputs, the key of the user's text or messages, or a function from the input to them.
            ``None``: a value alone in its dict, or under exactly one of ``messages``, ``input``, ``question``,
            ``query``, if the prompt with which the chain may begin reads that one. What is there as plain dicts or
            lists, rather than text or LangChain's messages, is judged whole, system prompts and earlier turns too, as
            a prompt may write it out; not so under ``messages``, in a ``MessagesPlaceholder``, or from a function.
        output_type: ``str`` or ``AIMessage`` where ``runnable`` does not tell what it returns.
        output_text: for outputs that are neither text nor messages: a function from the whole output to what of it is
            judged. Their streams are one value, that of ``invoke`` (a message as a chunk): parts of it may not add up.
        window: how much of a streamed answer a check waits for: ``"sentence"``, a number of words, or ``"answer"``
            for all of it.
        release: ``"checked"``, or ``"optimistic"``: chunks leave at once, and the safeguard response follows what turns
            out to be blocked. Tool calls are held either way.
        overlap: start the chain beside the guardian; nothing leaves before the verdict, and a block cancels the
            chain's task (in sync calls it is abandoned). Batches are judged first all the same. **The chain runs on
            inputs that are then blocked**: whatever it writes, sends or spends is done. Tools made by ``guard_tool``
            wait for the verdict; others do not. In async functions call them with ``ainvoke``: ``invoke`` would stop
            the loop that brings the verdict, and is refused.
        on_block: ``"respond"``, ``"raise"``, or ``function(verdict, response)`` whose result stands in for the
            output; with a ``function(verdict)`` no response is written, which takes seconds where the guardian's
            model writes it. ``None``: as the policy says. The verdict is ``None`` when none could be had.
        on_uncheckable: what happens to an input without text, empty or images only, and to images, links and encoded
            files beside text that may pass; with the output rail, to such answers too. ``"block"`` answers that text
            is needed, ``"raise"`` raises ``InputError``, ``"allow"`` lets them through unjudged. The text beside them
            is judged either way.
        on_escalate: whom to ask when the policy says ``"escalate"``: ``function(verdict, check)`` returns ``"allow"``,
            ``"block"``, or the text that goes on in place of the judged one. ``None``: it blocks. Of an answer, each
            part that escalates is asked about once: its text, its reasoning, each tool call; in streams at the end,
            until which it is held.
        context_turns: earlier user and assistant turns that the guardian sees.
        name: the run's name in traces. ``None``: ``guard<…>`` around the wrapped Runnable's name.

    Raises:
        ConfigError: a setting is wrong, or the output type is unknown and blocks need one.
    """
    try:
        wrapped = coerce_to_runnable(runnable)
    except TypeError:
        raise ConfigError(f"cannot guard a {type(runnable).__name__}: it is not a Runnable") from None
    return GuardedRunnable(
        runnable=wrapped,
        guardian=guardian,
        policy=policy,
        rails=rails,
        input_key=input_key,
        output_type=output_type,
        output_text=output_text,
        window=window,
        release=release,
        overlap=overlap,
        on_block=on_block,
        on_uncheckable=on_uncheckable,
        on_escalate=on_escalate,
        context_turns=context_turns,
        name=name,
    )
