"""Train a soft prompt by DRO: move harmful queries to the refusing side and harmless ones to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guardrail_plugin.dro.anchor import Anchor
from guardrail_plugin.dro.config import Config
from guardrail_plugin.dro.fit import conversation
from guardrail_plugin.dro.hidden import hidden_after, hidden_states
from guardrail_plugin.dro.identity import ModelIdentity, model_sha256, require_same
from guardrail_plugin.dro.loop import Trained, optimise
from guardrail_plugin.dro.objective import dro_loss
from guardrail_plugin.dro.prefix import Prefix, shared_head, shared_prefix
from guardrail_plugin.dro.soft_prompt import Method, SoftPrompt, SoftPromptInfo, text_prompt
from guardrail_plugin.models.chat_template import ChatSplice

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    anchor: Anchor,
    *,
    init: str,
    config: Config | None = None,
    checkpoint: str | Path | None = None,
    base_model: str | None = None,
    quiet: bool = False,
) -> SoftPrompt:
    """Train a soft prompt that begins as a text's embeddings. Same seed, same file (on a CPU).

    Args:
        model: the anchor's; its weights take no gradient and are not changed.
        tokenizer: the model's.
        anchor: fitted on this model; its queries are the training queries.
        init: the text to begin with, of any length: usually one of ``SAFETY_PROMPTS``.
        config: ``Config()`` if not given.
        checkpoint: a file to save progress to and resume from.
        base_model: the model's name, where it was loaded from a folder.
        quiet: no progress bar; there is none either where stderr is not a terminal.

    Raises:
        SoftPromptMismatch: the anchor belongs to another model.
        ConfigError: ``init`` is empty, or the template has no fixed place for a system text.
    """
    config = config or Config()
    identity = ModelIdentity.of(model, tokenizer, base_model=base_model)
    require_same(anchor.identity, identity)
    splice = ChatSplice(tokenizer)
    initial = text_prompt(model, splice.content_ids(init))  # (L, d)
    with frozen(model):
        problem = DroProblem(model, splice, anchor, initial=initial, config=config)
        trained = optimise(
            initial,
            problem.loss_of,
            len(anchor.queries),
            config=config,
            checkpoint=Path(checkpoint) if checkpoint is not None else None,
            fingerprint=problem.fingerprint,
            quiet=quiet,
        )
    return as_soft_prompt(trained, identity, method="dro", initial_text=init, config=config)


class DroProblem:
    """The loss of a soft prompt on an anchor's queries.

    Attributes:
        fingerprint: what a checkpoint must agree with besides config and initial prompt.
    """

    def __init__(
        self, model: PreTrainedModel, splice: ChatSplice, anchor: Anchor, *, initial: Tensor, config: Config
    ) -> None:
        self._model = model
        self._anchor = anchor
        self._config = config
        self._rows = [splice.row(conversation(query), soft=True) for query in anchor.queries]
        self._harmless = anchor.is_harmless
        self._head = Prefix.of_ids(model, shared_head(self._rows)) if config.share_prefix else None
        size = -(-config.batch_size // config.accumulation)
        with torch.no_grad():
            parts = [range(i, min(i + size, len(self._rows))) for i in range(0, len(self._rows), size)]
            self._base = torch.cat([self._states(initial, part) for part in parts])  # (Q, d)
        told = [row.ids for row in self._rows]
        self.fingerprint = f"dro:{model_sha256(model)}:{told}:{anchor.refusal.weight.tolist()}"

    def loss_of(self, soft: Tensor, indices: Sequence[int]) -> tuple[Tensor, Mapping[str, float]]:
        """Return the loss over some queries. Shapes: soft (L, d) → ()."""
        index = torch.tensor(indices)
        new = self._states(soft, indices)  # (B, d)
        base = self._base[index.to(self._base.device)]
        harmless = self._harmless[index].to(new.device)
        terms = dro_loss(new, base, harmless, anchor=self._anchor, config=self._config)
        return terms.total, terms.as_dict()

    def _states(self, soft: Tensor, indices: Sequence[int]) -> Tensor:
        rows = [self._rows[i] for i in indices]
        layer = self._anchor.config.layer
        if self._head is None:
            return hidden_states(self._model, rows, soft, layer=layer)
        prefix, behind = shared_prefix(self._model, rows, soft, head=self._head)
        return hidden_after(self._model, behind, prefix, layer=layer)


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Run with weights that take no gradient, in evaluation mode; both are restored at the end."""
    took_gradient = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for parameter in took_gradient:
            parameter.requires_grad_(True)
        model.train(was_training)


def as_soft_prompt(
    trained: Trained, identity: ModelIdentity, *, method: Method, initial_text: str, config: Config
) -> SoftPrompt:
    """Return the artefact of a finished loop."""
    last = trained.history[-1] if trained.history else {}
    metrics = {**last, "steps": float(trained.steps), "stopped_early": float(trained.stopped_early)}
    info = SoftPromptInfo(
        width=identity.width,
        base_model=identity.base_model,
        revision=identity.revision,
        tokenizer_sha256=identity.tokenizer_sha256,
        method=method,
        initial_text=initial_text,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        metrics=metrics,
        history=trained.history,
    )
    return SoftPrompt(trained.vectors, info)
