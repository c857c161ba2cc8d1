"""``guard()``: the public door to ``GuardedRunnable``."""

from __future__ import annotations

from collections.abc import Callable

from langchain_core.runnables import Runnable
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.runnables.utils import Input, Output

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.guarded import GuardedRunnable
from guardrail_plugin.runnables.stage import OnBlock
from guardrail_plugin.runnables.views import InputKey


def guard(
    runnable: Runnable[Input, Output] | Callable[[Input], Output],
    *,
    guardian: GuardianProtocol,
    policy: Policy | None = None,
    input_key: InputKey | None = None,
    output_type: object = None,
    on_block: OnBlock | None = None,
    on_uncheckable: OnFailure = "block",
    context_turns: int = 6,
    name: str | None = None,
) -> GuardedRunnable[Input, Output]:
    """Put an input rail and a responder in front of a Runnable. Returns a new Runnable of the same types.

    Judged is the latest user turn: all user messages after the last assistant message, with up to
    ``context_turns`` turns before it for context. What the guardian blocks never reaches ``runnable``.

    Wrap the whole of what can answer: in ``guard(a).with_fallbacks([b])`` a rail that raises is one more failure,
    and ``b`` gets the input unjudged. Write ``guard(a.with_fallbacks([b]))``.

    Args:
        runnable: any Runnable, or a function (sync or async) that LangChain can make into one.
        guardian: who judges and writes safeguard responses.
        policy: when to act and how. ``None``: the guardian's calibrated thresholds, block, closed on failure.
        input_key: for dict inputs, the key of the user's text or messages, or a function from the input to them.
            ``None``: a value alone in its dict, or under exactly one of ``messages``, ``input``, ``question``,
            ``query``.
        output_type: ``str`` or ``AIMessage`` where ``runnable`` does not tell what it returns.
        on_block: ``"respond"``, ``"raise"``, or ``function(verdict, response)`` whose result stands in for the
            output. ``None``: as the policy says. The verdict is ``None`` when none could be had.
        on_uncheckable: what happens to an input without text, empty or images only: ``"block"`` answers that text
            is needed, ``"raise"`` raises ``InputError``, ``"allow"`` lets it through unjudged.
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
        input_key=input_key,
        output_type=output_type,
        on_block=on_block,
        on_uncheckable=on_uncheckable,
        context_turns=context_turns,
        name=name,
    )
