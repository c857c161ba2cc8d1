"""Figures that others published for the same benchmarks. They are quoted, not measured here."""

from __future__ import annotations

from dataclasses import dataclass

SETS: dict[str, str] = {
    "openai_moderation": "OpenAI moderation",
    "toxicchat_test": "ToxicChat",
    "aegis_safety_test": "Aegis 1",
    "simple_safety_tests": "SimpleSafetyTests",
    "harmbench_standard": "HarmBench",
}
"""Name in our suite → name of the column."""

NOTE = (
    "F1 in per cent for judging prompts, as published; not measured here. The publishers used the full sets, the files "
    "of this suite are partly subsets, so differences of a few points mean nothing. On sets that hold harmful prompts "
    "only, F1 = 2R / (1 + R) for recall R."
)

SOURCES: dict[str, str] = {
    "Q": "Qwen3Guard technical report, Table 2 (github.com/QwenLM/Qwen3Guard)",
    "G": "GuardReasoner, prompt-harmfulness table (arXiv 2501.18492)",
    "H": "HarmAug's table (arXiv 2410.01524), as quoted in the README of QGuard",
    "I": "IBM Granite Guardian repository, figure harm_benchmark_2B",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One guardian's published F1, in per cent, in the order of ``SETS``; ``None`` where none was found."""

    guardian: str
    parameters: str
    f1: tuple[float | None, float | None, float | None, float | None, float | None]
    source: str


PUBLISHED: tuple[Published, ...] = (
    Published("HarmAug-DeBERTa", "435M", (72.4, 62.8, None, None, None), "H"),
    Published("Qwen3Guard-Gen strict", "0.6B", (66.5, 65.1, 90.8, 99.0, 98.7), "Q"),
    Published("Qwen3Guard-Gen loose", "0.6B", (77.6, 77.7, 76.9, 95.8, 96.1), "Q"),
    Published("Llama Guard 3", "1B", (69.0, 45.0, 68.0, 98.0, 99.0), "I"),
    Published("GuardReasoner", "1B", (70.1, 72.4, 89.3, 99.0, 96.3), "G"),
    Published("Granite Guardian 3.0", "2B", (60.0, 37.0, 84.0, 100.0, 98.0), "I"),
    Published("ShieldGemma", "2B", (13.9, 6.9, 7.5, 5.8, 11.8), "G"),
    Published("Qwen3Guard-Gen strict", "4B", (68.3, 69.5, 90.8, 99.5, 100.0), "Q"),
    Published("WildGuard", "7B", (72.1, 70.8, 89.4, 99.5, 98.9), "Q"),
    Published("PolyGuard-Qwen", "7B", (74.1, 71.5, 90.3, 100.0, 98.7), "Q"),
    Published("Llama Guard 3", "8B", (79.5, 53.8, 71.5, 99.5, 99.0), "Q"),
    Published("NemoGuard", "8B", (81.0, 75.6, 81.4, 98.5, 75.2), "Q"),
    Published("Qwen3Guard-Gen strict", "8B", (68.8, 68.9, 91.4, 99.5, 100.0), "Q"),
    Published("GuardReasoner", "8B", (72.0, 78.8, 90.2, 99.5, 91.9), "G"),
    Published("ShieldGemma", "9B", (82.1, 69.4, 70.3, 83.7, 60.6), "Q"),
    Published("Llama Guard 4", "12B", (73.5, 51.3, 67.8, 98.0, 97.2), "Q"),
)
