"""A replica on an OpenAI-compatible server (vLLM, SGLang, llama.cpp), or on several that serve the same model."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import ConfigError, InferenceError, MissingDependencyError
from guardrail_plugin.models.remote_calls import Calls, Garbled, at_once
from guardrail_plugin.models.remote_decode import RemoteDecode
from guardrail_plugin.models.remote_prompt import EmbeddedPrompts, PlainPrompts, Prompts
from guardrail_plugin.models.remote_wire import ALTERNATIVES, Codec, Dialect, dialect_of, score_fields, score_of
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Replica, ScoreRequest, ScoreResult
from guardrail_plugin.pool.relay import Account

if TYPE_CHECKING:
    from openai import OpenAI
    from torch import Tensor

PREFIX = "openai:"
_NO_KEY = "none"
_USER_INFO = re.compile(r"//[^/@,#]*@")
_PROMPTS_PER_CALL = 8
_BATCHES_AT_ONCE = 4


class RemoteReplica:
    """Scores by the alternatives that the server reports for the next token; decodes by streaming.

    A batch goes out as calls of a few prompts each, side by side. vLLM is asked for exactly the labels'
    log-probabilities by id; others report their likeliest tokens, among which a trained guardian's labels are. No call
    takes longer than the most patient of its callers waits.

    Does not: keep anything of its own on the server. Shared prefixes are cached there if it is set up to.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        model: str,
        codec: Codec,
        prompts: Prompts,
        dialect: Dialect,
        constrain: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._calls = calls
        self._model = model
        self._codec = codec
        self._prompts = prompts
        self._dialect: Dialect = dialect
        self._constrain = constrain
        self._on_close = on_close

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Score for callers who wait as long as it takes. See ``score_for``."""
        return self.score_for(batch, [Account()] * len(batch))

    def score_for(self, batch: Sequence[ScoreRequest], accounts: Sequence[Account]) -> list[ScoreResult]:
        """Answer the batch.

        Raises:
            GuardianTimeout: nobody waits for some of it any longer.
            ReplicaDead: no server answers, or they refuse the key or the model.
            PoolOverloaded: they are overloaded.
            InferenceError: a server refuses a prompt, or answers without alternatives or with none of the labels.
        """
        parts = list(_parts(batch))
        answers = at_once(
            [partial(self._call, [batch[i] for i in part], _longest_s([accounts[i] for i in part])) for part in parts]
        )
        results = {
            at: result
            for part, answer in zip(parts, answers, strict=True)
            for at, result in zip(part, answer, strict=True)
        }
        return [results[at] for at in range(len(batch))]

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Begin to stream for callers who wait as long as it takes. See ``start_for``."""
        return self.start_for(batch, [Account()] * len(batch))

    def start_for(self, batch: Sequence[GenerateRequest], accounts: Sequence[Account]) -> Decode:
        """Begin to stream every row. What goes wrong is raised by the decode's steps."""
        return RemoteDecode(
            batch,
            accounts,
            calls=self._calls,
            model=self._model,
            codec=self._codec,
            prompts=self._prompts,
            dialect=self._dialect,
        )

    def close(self) -> None:
        """Leave the connections to the other replicas; the last one closes them."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _call(self, part: Sequence[ScoreRequest], timeout_s: float | None) -> list[ScoreResult]:
        rows = [request.input_ids for request in part]
        fields = score_fields(self._dialect, part[0].label_ids, codec=self._codec, constrain=self._constrain)

        def send(client: OpenAI) -> list[ScoreResult]:
            done = client.completions.create(
                model=self._model,
                prompt=self._prompts.many(rows),
                max_tokens=1,
                temperature=0.0,
                logprobs=ALTERNATIVES,
                extra_body=fields | self._prompts.fields(rows),
            )
            choices = sorted(getattr(done, "choices", None) or (), key=lambda choice: choice.index)
            if len(choices) != len(part):
                raise Garbled(f"{len(choices)} answers to {len(part)} prompts")
            try:
                return [
                    score_of(choice, request, self._codec, constrain=self._constrain)
                    for choice, request in zip(choices, part, strict=True)
                ]
            except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
                raise Garbled(type(error).__name__) from error

        try:
            return self._calls.run(send, timeout_s=timeout_s)
        except InferenceError as error:
            if isinstance(self._prompts, EmbeddedPrompts):
                raise InferenceError(
                    f"{error}: a soft prompt needs a server started with --enable-prompt-embeds"
                ) from error
            raise


class RemoteFactory:
    """Makes replicas for one model of one or several servers. They share connections and what is known of the servers.

    A pool that is free to choose gets several slots, so that batches overlap.

    Args:
        address: ``openai:http://HOST/v1#MODEL``; several servers are separated by commas before the ``#``.
        codec: the tokenizer.
        timeout_s: for one attempt of a call, and between two pieces of a stream; less where callers wait for less.
        max_connections: calls at once, over all replicas.
        attempts: per call, on errors that may pass.
        constrain: have the server choose among the labels only (vLLM, SGLang); its choice counts where it reports none
            of their probabilities.
        embed: for a soft prompt on vLLM: ids -> embeddings (L, d), the soft ids' rows included.

    Raises:
        MissingDependencyError: ``openai`` is not installed.
        ConfigError: the address is not of that form.
    """

    def __init__(
        self,
        address: str,
        *,
        codec: Codec,
        timeout_s: float = 30.0,
        max_connections: int = 64,
        attempts: int = 3,
        constrain: bool = False,
        embed: Callable[[Sequence[int]], Tensor] | None = None,
    ) -> None:
        try:
            import openai  # noqa: F401
        except ImportError:
            raise MissingDependencyError("openai", extra="openai") from None
        url, self.model = split_address(address)
        self.urls = tuple(url.split(","))
        self._codec = codec
        self._prompts: Prompts = PlainPrompts(codec) if embed is None else EmbeddedPrompts(embed)
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._attempts = attempts
        self._constrain = constrain
        self._lock = threading.Lock()
        self._calls: Calls | None = None
        self._users = 0

    def places(self, device: str) -> Sequence[str]:
        """Return how many batches may be on their way at once; what a device is means nothing here."""
        return [device] * _BATCHES_AT_ONCE

    def __call__(self, device: str) -> Replica:
        """Make a replica, if any server answers.

        Raises:
            ReplicaDead: none does.
        """
        with self._lock:
            calls = self._calls or self._connect()
            calls.probe()
            self._calls = calls
            self._users += 1
        return RemoteReplica(
            calls=calls,
            model=self.model,
            codec=self._codec,
            prompts=self._prompts,
            dialect=dialect_of(calls.owners),
            constrain=self._constrain,
            on_close=self._left,
        )

    def _connect(self) -> Calls:
        import openai

        def client(url: str) -> OpenAI:
            try:
                return openai.OpenAI(base_url=url, timeout=self._timeout_s, max_retries=0)
            except openai.OpenAIError:  # no key in the environment; servers of one's own want none
                return openai.OpenAI(base_url=url, timeout=self._timeout_s, max_retries=0, api_key=_NO_KEY)

        clients = {url: client(url) for url in self.urls}
        return Calls(clients, max_connections=self._max_connections, attempts=self._attempts)

    def _left(self) -> None:
        with self._lock:
            self._users -= 1
            calls = self._calls if self._users == 0 else None
            if calls is not None:
                self._calls = None
        if calls is not None:
            calls.close()


def shown_address(address: str) -> str:
    """Return an address as verdicts and traces may carry it: without the user names and keys that URLs can hold."""
    return _USER_INFO.sub("//", address)


def split_address(address: str) -> tuple[str, str]:
    """Return URL (or URLs, by commas) and model of ``openai:http://HOST/v1#MODEL``.

    Raises:
        ConfigError: it is not such an address.
    """
    url, _, model = address.removeprefix(PREFIX).partition("#")
    if not model or not all(one.startswith(("http://", "https://")) for one in url.split(",")):
        raise ConfigError(f"a remote guardian is {PREFIX}http://HOST/v1#MODEL, got {shown_address(address)!r}")
    return url, model


def _longest_s(accounts: Sequence[Account]) -> float | None:
    """Return how long the most patient of them waits; ``None``: as long as it takes."""
    known = [account.timeout_s for account in accounts if account.timeout_s is not None]
    return max(known) if len(known) == len(accounts) else None


def _parts(batch: Sequence[ScoreRequest]) -> list[list[int]]:
    """Return places in the batch, a few per call, each call with equal labels."""
    by_labels: dict[tuple[int, ...], list[int]] = {}
    for at, request in enumerate(batch):
        by_labels.setdefault(request.label_ids, []).append(at)
    return [
        same[i : i + _PROMPTS_PER_CALL] for same in by_labels.values() for i in range(0, len(same), _PROMPTS_PER_CALL)
    ]
