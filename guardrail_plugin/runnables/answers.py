"""Read what a chain answers, whole or chunk by chunk: text, messages, or whatever the caller can turn into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from langchain_core.messages import AIMessageChunk, BaseMessage

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import InputError
from guardrail_plugin.flow import Part, Uncheckable
from guardrail_plugin.runnables.answer_files import beside_text, files_in
from guardrail_plugin.runnables.blocks import as_json, call_checks, client_calls, other_call_checks, part_of
from guardrail_plugin.runnables.content import kinds_in
from guardrail_plugin.runnables.metadata import metadata_in
from guardrail_plugin.runnables.streams import summed

OutputText: TypeAlias = Callable[[Any], str | BaseMessage | None]
"""From a chain's output to what of it is judged; ``None``: nothing in it is text."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer answers: the query, and the turns before it."""

    query: str | None = field(default=None, repr=False)
    context: tuple[Message, ...] = field(default=(), repr=False)

    def check(self, text: str) -> Check:
        """Return a piece of the answer as something to judge."""
        return Check(text, rail="output", query=self.query, context=self.context)


ReadCalls: TypeAlias = Callable[[BaseMessage, Asked], tuple[Check, ...]]
"""From a message to the checks of what it orders, beside what it says."""


def every_call(message: BaseMessage, asked: Asked) -> tuple[Check, ...]:
    """Have every tool call judged with the answer that makes it."""
    return call_checks(message)


def calls_but_tools(structured: frozenset[str] = frozenset()) -> ReadCalls:
    """Return a reader of those calls that no ``ToolStage`` judges: server-side ones, and structured answers.

    Args:
        structured: names of tools that are no tools but forms for an answer.
    """

    def read(message: BaseMessage, asked: Asked) -> tuple[Check, ...]:
        calls = client_calls(message)
        answers = tuple(asked.check(as_json(arguments)) for name, arguments in calls if name in structured)
        return answers + other_call_checks(message)

    return read


@dataclass(frozen=True, slots=True)
class Answer:
    """What is judged of a whole answer, and what beside it no rail can read: images, sound, files."""

    subject: tuple[Check, ...] | Uncheckable
    beside: Uncheckable | None = None


def read_answer(
    output: object, asked: Asked, output_text: OutputText | None, *, calls: ReadCalls = every_call
) -> Answer:
    """Return what must be judged of a whole answer: its text, its reasoning, each of its tool calls.

    Raises:
        InputError: it is of a type that cannot be read.
    """
    readable = _readable(output, output_text)
    # All of a message leaves, whatever output_text picks from it.
    files = [kind for said in (readable, output) if isinstance(said, BaseMessage) for kind in files_in(said)]
    return Answer(_subject(readable, asked, calls), beside_text(dict.fromkeys(files)))


def _subject(readable: str | BaseMessage, asked: Asked, calls: ReadCalls) -> tuple[Check, ...] | Uncheckable:
    if isinstance(readable, str):
        return (asked.check(readable),) if readable.strip() else ()
    part = part_of(readable)
    beside = "\n".join(metadata_in(readable))
    checks = tuple(asked.check(text) for text in (part.answer, part.reasoning, beside) if text.strip())
    checks += calls(readable, asked) if part.acts else ()
    if checks or part.acts or not (kinds := kinds_in([readable.content])):
        return checks
    return Uncheckable(f"the answer holds only {', '.join(kinds)}")


def _readable(output: object, output_text: OutputText | None) -> str | BaseMessage:
    given: object = output
    if output_text is not None:
        failure = ""
        try:
            given = output_text(output)
        except Exception as error:
            failure = type(error).__name__
        if failure:
            # Its message may quote the answer, so only its type is passed on; raised out here, it holds nothing of it.
            raise InputError(f"output_text raised {failure}")
        given = "" if given is None else given
    if isinstance(given, str | BaseMessage):
        return given
    raise InputError(f"cannot read text from the output, which is a {type(given).__name__}; pass output_text")


class ChunkReader:
    """Reads a stream of text or of message chunks. Made for one stream.

    Attributes:
        message_id: the id that the answer's chunks carry.
        blocks: whether they carry content blocks rather than plain text.
    """

    def __init__(self, asked: Asked | None = None, *, calls: ReadCalls = every_call) -> None:
        self.message_id: str | None = None
        self.blocks = False
        self._asked = asked or Asked()
        self._calls = calls
        self._acting: list[BaseMessage] = []
        self._kinds: dict[str, None] = {}
        self._files: dict[str, None] = {}
        self._told: set[str] = set()
        self._text = False

    def read(self, chunk: object) -> Part:
        """Return what the chunk adds.

        Raises:
            InputError: it is neither text nor a message.
        """
        readable = _readable(chunk, None)
        if isinstance(readable, str):
            return Part(readable)
        self.message_id = readable.id or self.message_id
        self.blocks = self.blocks or (isinstance(readable.content, list) and bool(readable.content))
        files = files_in(readable)
        self._files.update(dict.fromkeys(files))
        part = replace(part_of(readable), unread=bool(files))
        self._text = self._text or bool(part.answer.strip())
        if not self._text:
            self._kinds.update(dict.fromkeys(kinds_in([readable.content])))
        if part.acts:
            self._acting.append(readable)
        return self._with_metadata(part, readable)

    def _with_metadata(self, part: Part, message: BaseMessage) -> Part:
        # Once: providers repeat it on every chunk. Not in the answer, whose length a reader is told.
        new = [text for text in metadata_in(message) if text not in self._told]
        if not new:
            return part
        self._told.update(new)
        return replace(part, reasoning="\n".join([part.reasoning, *new, ""]))

    def rest(self) -> tuple[Check, ...]:
        """Return the checks of the tool calls that the chunks add up to.

        Raises:
            InputError: they do not add up.
        """
        chunks = [message for message in self._acting if isinstance(message, AIMessageChunk)]
        whole = [message for message in self._acting if not isinstance(message, AIMessageChunk)]
        messages = [summed(chunks), *whole] if chunks else whole
        return tuple(check for message in messages for check in self._calls(message, self._asked))

    def nothing(self) -> Uncheckable | None:
        """Tell that there were images and the like, alone or beside text."""
        if self._files:
            return beside_text(self._files)
        if self._text or self._acting or not self._kinds:
            return None
        return Uncheckable(f"the answer holds only {', '.join(self._kinds)}")


class WholeReader:
    """Reads the one value of a stream of a type that only ``output_text`` can read: the whole answer."""

    message_id: str | None = None
    blocks = False

    def __init__(self, asked: Asked, output_text: OutputText) -> None:
        self._asked = asked
        self._output_text = output_text
        self._answer: Answer | None = None

    def read(self, chunk: object) -> Part:
        """Read it. It may act: nothing of it leaves before it is judged.

        Raises:
            InputError: ``output_text`` could not read it.
        """
        if self._answer is not None:
            raise AssertionError("of a whole answer there is one")
        self._answer = read_answer(chunk, self._asked, self._output_text)
        return Part(acts=True)

    def rest(self) -> tuple[Check, ...]:
        """Return its checks."""
        if self._answer is None or isinstance(self._answer.subject, Uncheckable):
            return ()
        return self._answer.subject

    def nothing(self) -> Uncheckable | None:
        """Tell that there is nothing to judge in it, or something that no rail can read."""
        if self._answer is None:
            return None
        subject = self._answer.subject
        return self._answer.beside or (subject if isinstance(subject, Uncheckable) else None)
