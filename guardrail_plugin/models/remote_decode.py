"""Decodes on a server: one stream per row, read in threads of their own, handed out step by step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import ReplicaDead
from guardrail_plugin.models.remote_calls import Calls, Midway
from guardrail_plugin.models.remote_wire import Codec, Dialect, decode_fields, tokens_of
from guardrail_plugin.pool.protocol import FinishReason, GenerateRequest, RowFailed, Token
from guardrail_plugin.pool.relay import Account

if TYPE_CHECKING:
    from openai import OpenAI, Stream
    from openai.types import Completion

    from guardrail_plugin.models.remote_prompt import Prompts

_PATIENCE_S = 0.02
"""How long a step waits for news before it lets verdicts go in between."""


@dataclass(slots=True, eq=False)
class _Row:
    """One stream. ``ids`` and ``end`` are written by its thread, under the decode's lock."""

    request: GenerateRequest
    timeout_s: float | None
    ids: deque[int] = field(default_factory=deque)
    end: FinishReason | Exception | None = None
    gone: bool = False
    begun: bool = False


class RemoteDecode:
    """The rows of one batch. A step hands out at most one token per row, and waits only briefly if there is none."""

    def __init__(
        self,
        batch: Sequence[GenerateRequest],
        accounts: Sequence[Account],
        *,
        calls: Calls,
        model: str,
        codec: Codec,
        prompts: Prompts,
        dialect: Dialect,
    ) -> None:
        self._calls = calls
        self._model = model
        self._codec = codec
        self._prompts = prompts
        self._dialect = dialect
        self._rows = {
            number: _Row(request, account.timeout_s)
            for number, (request, account) in enumerate(zip(batch, accounts, strict=True))
        }
        self._news = threading.Condition()
        for number, row in self._rows.items():
            threading.Thread(target=self._run, args=(row,), name=f"guardrail-stream-{number}", daemon=True).start()

    def step(self) -> Sequence[Token]:
        """Return the next token of each row that has one.

        Raises:
            ReplicaDead: a row's stream ended so.
            RowFailed: with the ``PoolOverloaded``, ``InferenceError`` or ``GuardianTimeout`` of a row's stream.
        """
        with self._news:
            if not self._rows:
                return []
            self._news.wait_for(lambda: any(row.ids or row.end for row in self._rows.values()), _PATIENCE_S)
            self._raise_failure()
            news: list[Token] = []
            for number, row in list(self._rows.items()):
                if row.ids:
                    news.append(Token(number, row.ids.popleft()))
                if not row.ids and row.end is not None and not isinstance(row.end, Exception):
                    news.append(Token(number, None, row.end))
                    del self._rows[number]
            return news or [Token(next(iter(self._rows)), None)]

    def _raise_failure(self) -> None:
        """Raise what a row that has handed out its tokens failed with."""
        for number, row in self._rows.items():
            if not row.ids and isinstance(row.end, Exception):
                if isinstance(row.end, ReplicaDead):
                    raise row.end
                del self._rows[number]
                raise RowFailed(number, row.end)

    def cancel(self, row: int) -> None:
        """Leave a stream. Its connection is closed when its next piece comes, which ends the row on the server."""
        with self._news:
            if row in self._rows:
                self._rows[row].gone = True
                self._rows[row].ids.clear()
                self._rows[row].end = "cancelled"

    def close(self) -> None:
        """Leave all streams."""
        with self._news:
            for row in self._rows.values():
                row.gone = True
            self._rows.clear()

    def _run(self, row: _Row) -> None:
        end: FinishReason | Exception
        try:
            end = self._calls.run(lambda client: self._read(client, row), timeout_s=row.timeout_s)
        except Exception as error:
            end = error
        with self._news:
            if not row.gone:
                row.end = end
            self._news.notify()

    def _read(self, client: OpenAI, row: _Row) -> FinishReason:
        if row.gone:
            return "cancelled"
        request = row.request
        fields = decode_fields(self._dialect, request) | self._prompts.fields([request.input_ids])
        stream = client.completions.create(
            model=self._model,
            prompt=self._prompts.one(request.input_ids),
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            logprobs=None if self._dialect == "plain" else 1,  # with them come token ids
            stream=True,
            extra_body=fields,
        )
        try:
            with stream:
                return self._follow(stream, row)
        except Exception as error:
            if row.begun:
                raise Midway(type(error).__name__) from error
            raise

    def _follow(self, stream: Stream[Completion], row: _Row) -> FinishReason:
        made = 0
        for piece in stream:
            choice = piece.choices[0] if piece.choices else None
            for token_id in tokens_of(choice, self._codec) if choice is not None else ():
                if row.gone:
                    return "cancelled"
                if token_id in row.request.stop_ids:
                    return "stop"
                made += 1
                row.begun = True
                with self._news:
                    row.ids.append(token_id)
                    self._news.notify()
                if made >= row.request.max_new_tokens:
                    return "length"
            if choice is not None and choice.finish_reason:
                return "stop" if choice.finish_reason == "stop" else "length"
        raise ConnectionError("the stream ended without saying why")
