"""The local replica of a sequence classifier: class numbers stand where a language model's next-token ids would."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.core.errors import InferenceError
from guardrail_plugin.models.load import device_places, import_torch, resolve_device, torch_dtype
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Replica, ScoreRequest, ScoreResult


class ClassifierReplica:
    """Answers score requests with a classification head. Label id ``i`` is class ``i``; the id after the last class
    stands for a logit of zero, so that a class of a multi-label head can be asked for as ``(i, zero)``.

    Equal inputs in a batch run once. Used by one thread at a time; the model may be shared.

    Args:
        model: a transformers model with ``logits`` (B, C), in evaluation mode.
        pad_id: fills rows up to the longest; masked, and in no input.
        on_close: told once.
    """

    def __init__(self, model: Any, *, pad_id: int, on_close: Callable[[], None] | None = None) -> None:
        self.model = model
        self.pad_id = pad_id
        self._on_close = on_close

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Answer every request with log-probabilities over its classes."""
        torch = import_torch()
        inputs = list(dict.fromkeys(request.input_ids for request in batch))
        width = max(map(len, inputs))
        device = self.model.device
        ids = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in inputs], device=device)  # (B, L)
        lengths = torch.tensor([len(row) for row in inputs], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float().cpu()  # (B, C)
        logits = torch.cat([logits, torch.zeros(len(inputs), 1)], dim=1)
        row_of = {row: i for i, row in enumerate(inputs)}
        return [
            ScoreResult(tuple(logits[row_of[r.input_ids]][list(r.label_ids)].log_softmax(-1).tolist())) for r in batch
        ]

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Refuse.

        Raises:
            InferenceError: always.
        """
        raise InferenceError("a sequence classifier writes no text")

    def close(self) -> None:
        """Let go of the weights."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


class ClassifierWeights:
    """A ``PlacedFactory``: loads a classifier once per device; the last replica to close frees it."""

    def __init__(self, folder: Path, *, pad_id: int, dtype: Dtype = "auto") -> None:
        self._folder = folder
        self._pad_id = pad_id
        self._dtype = dtype
        self._lock = threading.Lock()
        self._loaded: dict[str, Any] = {}
        self._users: dict[str, int] = {}

    def places(self, device: str) -> Sequence[str]:
        """Return where replicas should live when the caller names ``device`` and no number of them."""
        return device_places(device)

    def __call__(self, device: str) -> Replica:
        """Build a replica, in the thread that will use it."""
        from guardrail_plugin.models.torch_threads import use_one_thread

        where = resolve_device(device)
        if where == "cpu":
            use_one_thread()
        with self._lock:
            if where not in self._loaded:
                self._loaded[where] = load_classifier(
                    self._folder, device=where, pad_id=self._pad_id, dtype=self._dtype
                )
            self._users[where] = self._users.get(where, 0) + 1
            model = self._loaded[where]
        return ClassifierReplica(model, pad_id=self._pad_id, on_close=lambda: self._release(where))

    def _release(self, where: str) -> None:
        with self._lock:
            self._users[where] -= 1
            if not self._users[where]:
                self._loaded.pop(where, None)


def load_classifier(folder: Path, *, device: str, pad_id: int, dtype: Dtype = "auto") -> Any:
    """Return a sequence classifier in evaluation mode on a device.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
    """
    import_torch()
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch_dtype(dtype, device), trust_remote_code=False, use_safetensors=True
    )
    # Decoder-type classifiers find a row's last token by this id; without it they refuse batches.
    model.config.pad_token_id = pad_id
    return model.to(device).eval()
