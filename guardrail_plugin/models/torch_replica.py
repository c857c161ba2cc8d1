"""The local replica: one transformers causal language model on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from guardrail_plugin.core.errors import InferenceError
from guardrail_plugin.models.kept import MIN_REUSE, Ids, KeptRows, Prefix
from guardrail_plugin.models.rows import Engine, Rows
from guardrail_plugin.models.torch_decode import TorchDecode
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Request, ScoreRequest, ScoreResult


class TorchReplica:
    """Scores and decodes with an engine. Used by one thread at a time; the engine and the kept rows may be shared.

    Whatever begins like something that was run lately starts from its keys and values: a shared template, a response
    after its verdict, a conversation's next turn, the windows of one text, a growing output.

    Args:
        engine: computes.
        kept: rows that may be needed again; ``None``: every row starts from nothing.
        first_suppressed: ids from here on are never generated (a guardian's control tokens); ``None``: no limit.
        keep_answers: whether the rows of ended decodes are kept too (a chat's next turn begins with them).
        nbytes: what the replica takes on its device.
        batch_tokens: the batch that was found best for this device; 0: not measured.
        on_close: told once.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        kept: KeptRows | None = None,
        first_suppressed: int | None = None,
        keep_answers: bool = False,
        nbytes: int = 0,
        batch_tokens: int = 0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self.kept = kept if engine.reuses else None
        self.nbytes = nbytes
        self.batch_tokens = batch_tokens
        self._columns = slice(first_suppressed)
        self._keep_answers = keep_answers
        self._on_close = on_close

    @torch.inference_mode()
    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Answer every request with log-probabilities over its label tokens.

        Raises:
            InferenceError: a row is longer than the engine computes as the model does.
        """
        self._refuse_longer(batch)
        prompts = [request.input_ids for request in batch]
        self._share_prefixes(batch)
        prefixes = self._prefixes(prompts)
        rows = self.engine.open(prompts, prefixes)
        rows.prefill()
        labels = [request.label_ids for request in batch]
        columns = sorted({label for row in labels for label in row})
        at = {label: i for i, label in enumerate(columns)}
        logits = rows.logits(torch.tensor(columns)).cpu()  # (B, K)
        for place, (prompt, prefix) in enumerate(zip(prompts, prefixes, strict=True)):
            self._keep(rows, place, prompt, prefix)
        return [_result(row, [at[label] for label in own]) for row, own in zip(logits, labels, strict=True)]

    @torch.inference_mode()
    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Open the batch and return its step-wise decode; its first steps run the prompts.

        A row ends for its length at the latest where the engine's reach ends.

        Raises:
            InferenceError: a prompt is longer than the engine computes as the model does.
        """
        self._refuse_longer(batch)
        batch = [self._within_reach(request) for request in batch]
        prompts = [request.input_ids for request in batch]
        room = max(request.max_new_tokens for request in batch)
        rows = self.engine.open(prompts, self._prefixes(prompts), room=room)
        keep = self._keep_answer if self._keep_answers else None
        return TorchDecode(batch, rows, columns=self._columns, keep=keep)

    def close(self) -> None:
        """Let go of the weights. Other replicas that share them keep theirs."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _refuse_longer(self, batch: Sequence[Request]) -> None:
        most = self.engine.row_tokens
        longest = max((request.tokens for request in batch), default=0)
        if most is not None and longest > most:
            raise InferenceError(f"a row of {longest} tokens is longer than the {most} that the model reads")

    def _within_reach(self, request: GenerateRequest) -> GenerateRequest:
        if self.engine.row_tokens is None:
            return request
        most = self.engine.row_tokens - request.tokens + 1  # the last token is chosen and not run
        return replace(request, max_new_tokens=min(request.max_new_tokens, most))

    def _share_prefixes(self, batch: Sequence[ScoreRequest]) -> None:
        """Run declared prefixes that nobody has run yet, once each."""
        if self.kept is None:
            return
        declared = {r.input_ids[: r.prefix_len] for r in batch if MIN_REUSE <= r.prefix_len < len(r.input_ids)}
        news = [ids for ids in declared if not self.kept.covers(ids)]
        if news:
            prefixes = self._prefixes(news)
            rows = self.engine.open(news, prefixes)
            rows.prefill()
            for place, (ids, prefix) in enumerate(zip(news, prefixes, strict=True)):
                self._keep(rows, place, ids, prefix)

    def _prefixes(self, prompts: Sequence[Ids]) -> list[Prefix]:
        if self.kept is None:
            return [Prefix()] * len(prompts)
        return [self.kept.longest(prompt, most=len(prompt) - 1) for prompt in prompts]  # the last one must be run

    def _keep(self, rows: Rows, place: int, ids: Ids, prefix: Prefix) -> None:
        if self.kept is None or len(ids) - prefix.length < MIN_REUSE:
            return
        rest = rows.segment(place, prefix.length)
        if rest is not None:
            self.kept.put(ids, (*prefix.segments, rest))

    def _keep_answer(self, rows: Rows, place: int, ids: Ids) -> None:
        self._keep(rows, place, ids, Prefix())


def _result(logits: Tensor, columns: Sequence[int]) -> ScoreResult:
    return ScoreResult(tuple(logits[columns].log_softmax(-1).tolist()))
