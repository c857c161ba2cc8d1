"""What is published about guard models: sizes, licences, what they cover, figures. Nothing here was measured by us."""

from __future__ import annotations

from dataclasses import dataclass, field

_REPORT = "Qwen3Guard technical report, table 2"
_IBM = "IBM, harm_benchmark_2B.png"
_HARMAUG = "QGuard README (second hand)"


@dataclass(frozen=True, slots=True)
class Published:
    """F1 in percent that somebody else measured, by public test set; sets and cuts differ between sources.

    Attributes:
        source: who.
        f1: by set: OpenAI Moderation, ToxicChat, Aegis, HarmBench, WildGuard prompts.
    """

    source: str
    f1: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One public checkpoint.

    Attributes:
        model: hub id.
        family: as in ``family=``.
        parameters: weights in total; ``active``: of these, used per token where that is fewer.
        licence: as its card names it.
        covers: what it judges, in a few words.
        prompt_tokens: typical prompt for a text of 64 tokens; of them ``shared`` are the same for every text.
        passes: prompts per text (more where a question is asked per guideline).
    """

    model: str
    family: str
    parameters: float
    licence: str
    covers: str
    prompt_tokens: int
    shared: int
    passes: int = 1
    active: float | None = None
    published: Published | None = None

    def memory_gb(self, *, bytes_per_weight: int) -> float:
        """Return the weights' size in GB (10^9 bytes)."""
        return self.parameters * bytes_per_weight / 1e9

    def gflops(self, *, prefix_kept: bool) -> float:
        """Return GFLOP per verdict: 2 per weight and token, attention left out; with the shared prefix kept or not."""
        tokens = self.prompt_tokens - (self.shared if prefix_kept else 0)
        return 2 * (self.active or self.parameters) * tokens * self.passes / 1e9


def _f1(source: str, *values: float | None) -> Published:
    names = ("OAI-Mod", "ToxicChat", "Aegis", "HarmBench", "WildGuard")
    return Published(source, {name: value for name, value in zip(names, values, strict=True) if value is not None})


_MLCOMMONS = "MLCommons S1-S13"
CARDS = (
    ModelCard(
        "embedded (SmolLM2-135M)", "guardrail", 1.35e8, "Apache-2.0", "S1-S14, injection; writes responses", 66, 1
    ),
    ModelCard(
        "meta-llama/Llama-Guard-3-1B", "llama-guard-3", 1.5e9, "Llama 3.2", _MLCOMMONS, 262, 140,
        published=_f1(_IBM, 69, 45, 68, 99, None),
    ),
    ModelCard(
        "meta-llama/Llama-Guard-3-8B", "llama-guard-3", 8.03e9, "Llama 3.1", "MLCommons S1-S14", 267, 144,
        published=_f1(_REPORT, 79.5, 53.8, 71.5, 99.0, 76.4),
    ),
    ModelCard(
        "meta-llama/Llama-Guard-4-12B", "llama-guard-4", 1.2e10, "Llama 4", "MLCommons S1-S14", 267, 144,
        published=_f1(_REPORT, 73.5, 51.3, 67.8, 97.2, 73.0),
    ),
    ModelCard(
        "Qwen/Qwen3Guard-Gen-0.6B", "qwen3guard", 7.5e8, "Apache-2.0", "9 categories with jailbreak; strict mode", 365,
        201, published=_f1(_REPORT, 66.5, 65.1, 90.8, 98.7, 87.7),
    ),
    ModelCard(
        "Qwen/Qwen3Guard-Gen-4B", "qwen3guard", 4.4e9, "Apache-2.0", "9 categories with jailbreak; strict mode", 365,
        201, published=_f1(_REPORT, 68.3, 69.5, 90.8, 100, 85.6),
    ),
    ModelCard(
        "Qwen/Qwen3Guard-Gen-8B", "qwen3guard", 8.2e9, "Apache-2.0", "9 categories with jailbreak; strict mode", 365,
        201, published=_f1(_REPORT, 68.8, 68.9, 91.4, 100, 88.9),
    ),
    ModelCard(
        "google/shieldgemma-2b", "shieldgemma", 2.6e9, "Gemma", "danger, harassment, hate, sexual content", 205, 27, 4,
        published=Published("any-guardrail benchmark (OpenAI Moderation, WildGuard; another cut)",
                            {"OAI-Mod": 76.9, "WildGuard": 80.2}),
    ),
    ModelCard(
        "google/shieldgemma-9b", "shieldgemma", 9.2e9, "Gemma", "danger, harassment, hate, sexual content", 205, 27, 4,
        published=_f1(_REPORT, 82.1, 69.4, 70.3, 60.6, 54.2),
    ),
    ModelCard(
        "allenai/wildguard", "wildguard", 7.25e9, "Apache-2.0, AI2 terms", "harm of requests and responses, unnamed",
        170, 75, published=_f1(_REPORT, 72.1, 70.8, 89.4, 98.9, 88.9),
    ),
    ModelCard(
        "ibm-granite/granite-guardian-3.0-2b", "granite-guardian", 2.5e9, "Apache-2.0",
        "harm and single risks, jailbreak", 180, 30, published=_f1(_IBM, 60, 37, 84, 98, None),
    ),
    ModelCard(
        "openai/gpt-oss-safeguard-20b", "policy", 2.09e10, "Apache-2.0", "your own policy", 700, 600, active=3.6e9,
    ),
    ModelCard(
        "hbseong/HarmAug-Guard", "harmaug", 4.35e8, "MIT", "harm of requests and responses, unnamed", 66, 0,
        published=_f1(_HARMAUG, 72.4, 62.8, None, 83.3, 75.8),
    ),
    ModelCard(
        "DuoGuard/DuoGuard-0.5B", "duoguard", 4.9e8, "Apache-2.0", "12 categories with jailbreak", 64, 0,
        published=Published("DuoGuard README (mean of 6 English sets)", {"mean": 74.9}),
    ),
    ModelCard(
        "meta-llama/Llama-Prompt-Guard-2-86M", "prompt-guard-2", 2.8e8, "Llama 4", "prompt injection alone", 66, 0,
    ),
    ModelCard(
        "meta-llama/Llama-Prompt-Guard-2-22M", "prompt-guard-2", 7.1e7, "Llama 4", "prompt injection alone", 66, 0,
    ),
)  # fmt: skip
