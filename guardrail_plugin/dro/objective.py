"""The objective, one pure function per term.

With h₀ and h the hidden states of a query behind the initial text prompt and behind the soft prompt, V the anchor's m
components and r, q its refusal and harmfulness heads on them:

    L_r = BCE(r(h) - r(h₀), y)        y = 0 harmful: refuse more than before;  y = 1 harmless: comply more
    L_h = BCE(q(h) - q(h₀), y)        harmful queries should look more harmful, harmless ones less so
    L_U = mean over the other d - m coordinates of (h - h₀)²      what else the query says must stay
    L   = refusal · L_r + beta · L_h + gamma · L_U

Source: DRO, arXiv 2401.18018, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from guardrail_plugin.dro.anchor import Anchor
from guardrail_plugin.dro.config import Config


@dataclass(frozen=True, slots=True)
class Terms:
    """The three terms and their weighted sum; each a scalar tensor."""

    refusal: Tensor
    harmfulness: Tensor
    utility: Tensor
    total: Tensor

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers, for curves and logs."""
        return {
            "loss": self.total.item(),
            "refusal": self.refusal.item(),
            "harmfulness": self.harmfulness.item(),
            "utility": self.utility.item(),
        }


def direction_loss(new_logit: Tensor, base_logit: Tensor, harmless: Tensor) -> Tensor:
    """L_r or L_h: cross entropy of a logit's change against the label.

    Shapes: (B,), (B,), harmless (B,) boolean → ().
    """
    return F.binary_cross_entropy_with_logits(new_logit - base_logit, harmless.to(new_logit))


def utility_loss(new: Tensor, base: Tensor, components: Tensor) -> Tensor:
    """L_U: mean squared change in the coordinates that are not the anchor's.

    Shapes: new (B, d), base (B, d), components (m, d) orthonormal → ().
    """
    change = new - base  # (B, d)
    outside = change - change @ components.T @ components  # (B, d), in the d - m dimensional complement
    dims, width = components.shape
    return outside.square().sum(1).mean() / max(1, width - dims)


def dro_loss(new: Tensor, base: Tensor, harmless: Tensor, *, anchor: Anchor, config: Config) -> Terms:
    """L and its terms.

    Shapes: new (B, d) behind the soft prompt, base (B, d) behind the initial text prompt, harmless (B,) boolean.
    """
    new_at, base_at = anchor.project(new), anchor.project(base)  # (B, m)
    refusal = direction_loss(anchor.refusal.logit(new_at), anchor.refusal.logit(base_at), harmless)
    harmfulness = direction_loss(anchor.harmfulness.logit(new_at), anchor.harmfulness.logit(base_at), harmless)
    utility = utility_loss(new, base, anchor.components.to(new))
    total = config.refusal * refusal + config.beta * harmfulness + config.gamma * utility
    return Terms(refusal, harmfulness, utility, total)
