"""``guardrail chat`` with a scripted guardian and a scripted model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr
from rich.console import Console
from typer.testing import Result

from guardrail_plugin.cli import chat as chat_command
from guardrail_plugin.cli.conversation import Conversation
from guardrail_plugin.cli.session import Session
from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, ReplicaDead
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.testing import ScriptedGuardian, verdict

Invoke = Callable[..., Result]
Use = Callable[[GuardianProtocol], None]


class EchoModel(BaseChatModel):
    """Streams "you said ..." word by word, raises what it is told to, and keeps what it saw."""

    _seen: list[list[str]] = PrivateAttr(default_factory=list)
    _fail_on: dict[str, BaseException] = PrivateAttr(default_factory=dict)

    @property
    def seen(self) -> list[list[str]]:
        return self._seen

    @property
    def _llm_type(self) -> str:
        return "echo"

    def fail(self, word: str, error: BaseException) -> None:
        self._fail_on[word] = error

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self._seen.append([str(message.text) for message in messages])
        for word in ("you ", "said ", *str(messages[-1].text).split(" ")):
            if word in self._fail_on:
                raise self._fail_on[word]
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text = "".join(chunk.text for chunk in self._stream(messages))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> EchoModel:
    echo = EchoModel()
    monkeypatch.setattr(chat_command, "make_model", lambda *_, **__: echo)
    return echo


@pytest.fixture
def guardian() -> ScriptedGuardian:
    return ScriptedGuardian({"bomb": verdict(risk=0.97, hazard="S9")}, respond="I can't help with weapons.")


def test_a_piped_chat_answers_line_by_line(
    guardrail: Invoke, use: Use, model: EchoModel, guardian: ScriptedGuardian
) -> None:
    use(guardian)
    result = guardrail("chat", "--system", "Be kind.", stdin="hello\n\nbuild a bomb\nbye\n/quit\nnever read\n")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "[harmless  risk 0.000]",
        "you said hello",
        "[HARMFUL  risk 0.970  Indiscriminate Weapons (S9)  blocked: the guardian answers]",
        "I can't help with weapons.",
        "[harmless  risk 0.000]",
        "you said bye",
    ]
    # The blocked turn never reached the model, as history neither.
    assert model.seen == [["Be kind.", "hello"], ["Be kind.", "hello", "you said hello", "bye"]]


def test_reset_forgets(guardrail: Invoke, use: Use, model: EchoModel, guardian: ScriptedGuardian) -> None:
    use(guardian)
    result = guardrail("chat", stdin="one\n/reset\ntwo")
    assert result.exit_code == 0
    assert model.seen == [["one"], ["two"]]


def test_model_output_cannot_drive_the_terminal(
    guardrail: Invoke, use: Use, model: EchoModel, guardian: ScriptedGuardian
) -> None:
    use(guardian)
    assert "\x1b" not in guardrail("chat", stdin="\x1b[2J [bold]\n").stdout


def test_a_turn_that_fails_is_told_and_the_chat_goes_on(
    guardrail: Invoke, use: Use, model: EchoModel, guardian: ScriptedGuardian
) -> None:
    use(guardian)
    model.fail("odd", InferenceError("the model failed on this one"))
    result = guardrail("chat", stdin="odd\nnext\n")
    assert result.exit_code == 0
    assert result.stderr == "error: the model failed on this one\n"
    assert result.stdout.endswith("you said next\n")


def test_a_dead_model_ends_the_chat(guardrail: Invoke, use: Use, model: EchoModel, guardian: ScriptedGuardian) -> None:
    use(guardian)
    model.fail("odd", ReplicaDead("no replica is working"))
    result = guardrail("chat", stdin="odd\nnext\n")
    assert result.exit_code == 2
    assert result.stderr == "error: no replica is working\n"


def test_an_unjudged_turn_says_so(guardrail: Invoke, use: Use, model: EchoModel) -> None:
    use(ScriptedGuardian(lambda _: GuardianTimeout(1)))
    result = guardrail("chat", stdin="hello\n")
    assert "[not judged (GuardianTimeout)  blocked: the guardian answers]" in result.stdout
    assert model.seen == []


def typed(*lines: str, then: type[BaseException]) -> Callable[[str], str]:
    """Stand in for ``input()``: these lines, then Ctrl-C or Ctrl-D."""
    left = iter(lines)

    def read(_: str) -> str:
        for line in left:
            return line
        raise then

    return read


@pytest.mark.parametrize("then", [EOFError, KeyboardInterrupt])
def test_at_a_terminal_both_ctrl_d_and_ctrl_c_leave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], then: type[BaseException]
) -> None:
    monkeypatch.setattr("builtins.input", typed("a", "b", then=then))
    assert list(chat_command._typed()) == ["a", "b"]
    assert capsys.readouterr().out == "\n"


def test_ctrl_c_cuts_an_answer_and_keeps_what_there_was(model: EchoModel, guardian: ScriptedGuardian) -> None:
    model.fail("now", KeyboardInterrupt())
    out = StringIO()
    with InferencePool() as pool:
        session = Session(guardian, pool, Policy(on_block="raise"))
        chat = Conversation(model=model, session=session, console=Console(file=out, highlight=False))
        chat.run(["stop now please", "go on", "a bomb"])
    assert "(cut off)" in out.getvalue()
    assert model.seen[1] == ["stop now please", "you said stop", "go on"]
    assert out.getvalue().endswith("I can't help with weapons.\n")  # the chat answers whatever the policy's on_block
