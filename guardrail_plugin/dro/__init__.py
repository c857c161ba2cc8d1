"""DRO: soft safety prompts, trained, measured and injected (arXiv 2401.18018).

Read along the paper: ``prompts`` (what to start from), ``inject`` (where a prompt stands), ``hidden`` (what is read),
``fit`` with ``basis`` and ``heads`` (the anchor), ``objective`` (the loss), ``trainer`` (the run), ``evaluate`` (the
protocol), ``plot`` (the figure). Importing this package loads torch.
"""

from __future__ import annotations

from guardrail_plugin.dro.anchor import Anchor
from guardrail_plugin.dro.chat_model import SoftPromptChatModel
from guardrail_plugin.dro.config import AnchorConfig, Config, EvaluationConfig, Sampling
from guardrail_plugin.dro.draw import Journal
from guardrail_plugin.dro.evaluate import Evaluation, evaluate, guardian_judge
from guardrail_plugin.dro.fit import fit_anchor
from guardrail_plugin.dro.plot import plot_anchor, plot_curves, save_figure, soft_coordinates
from guardrail_plugin.dro.prefix import Prefix
from guardrail_plugin.dro.prompts import SAFETY_PROMPTS
from guardrail_plugin.dro.soft_prompt import SoftPrompt
from guardrail_plugin.dro.trainer import train
from guardrail_plugin.dro.vanilla import Answer, answers_from, train_vanilla
from guardrail_plugin.models.chat_template import ChatSplice

__all__ = [
    "SAFETY_PROMPTS",
    "Anchor",
    "AnchorConfig",
    "Answer",
    "ChatSplice",
    "Config",
    "Evaluation",
    "EvaluationConfig",
    "Journal",
    "Prefix",
    "Sampling",
    "SoftPrompt",
    "SoftPromptChatModel",
    "answers_from",
    "evaluate",
    "fit_anchor",
    "guardian_judge",
    "plot_anchor",
    "plot_curves",
    "save_figure",
    "soft_coordinates",
    "train",
    "train_vanilla",
]
