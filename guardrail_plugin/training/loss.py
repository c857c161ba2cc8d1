"""The multi-task loss, term by term. B rows, L positions, d width, K labels, R response positions, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guardrail_plugin.training.encode import UNKNOWN_HAZARD


def detection_loss(label_logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy at the verdict position, mean over the batch.

    A row labelled ``UNKNOWN_HAZARD`` is harmful in a way its source does not name: its loss is
    ``-log(1 - P(safe))``, the total probability of all hazards, so that any hazard satisfies it.

    Shapes: label_logits (B, K) with ``safe`` first, labels (B,) → ().
    """
    logp = label_logits.log_softmax(-1)  # (B, K)
    known = labels != UNKNOWN_HAZARD  # (B,)
    named = F.nll_loss(logp, labels.clamp(min=0), reduction="none")  # (B,)
    unnamed = -logp[:, 1:].logsumexp(-1)  # (B,)
    smooth = -logp.mean(-1)  # (B,)
    per_row = torch.where(known, (1 - smoothing) * named + smoothing * smooth, unnamed)
    return per_row.mean()


def response_loss(token_logits: Tensor, targets: Tensor) -> Tensor:
    """Next-token cross-entropy over response tokens, mean over tokens.

    Shapes: token_logits (R, V), targets (R,) → (). Zero, with a gradient, when R is 0.
    """
    if targets.numel() == 0:
        return token_logits.sum() * 0.0
    return F.cross_entropy(token_logits, targets)


def total_loss(detection: Tensor, response: Tensor, *, lambda_response: float) -> Tensor:
    """``detection + λ · response``."""
    return detection + lambda_response * response
