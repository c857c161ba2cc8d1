"""What a guard model's folder says about it: configuration, longest input, chat template. Loads no weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.load import import_torch

_SAMPLES = 256
_SAMPLE_BYTES = 1 << 12
_NO_LIMIT = 10**6  # tokenizers without a limit say 10**30
# Position numbers of these begin behind the padding's.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"})


@dataclass(frozen=True, slots=True)
class GuardFiles:
    """A folder in Hugging Face layout.

    Attributes:
        config: ``config.json``.
        tokenizer_config: ``tokenizer_config.json``; empty where there is none.
        chat_template: source of the template; empty where there is none.
    """

    folder: Path
    config: Mapping[str, Any] = field(repr=False)
    tokenizer_config: Mapping[str, Any] = field(repr=False)
    chat_template: str = field(repr=False)

    @classmethod
    def read(cls, folder: Path, *, tokenizer_folder: Path | None = None) -> GuardFiles:
        """Read a folder; the tokenizer's files may be in another.

        Raises:
            ConfigError: a file is not valid JSON.
        """
        beside = tokenizer_folder or folder
        tokenizer_config = _json(beside / "tokenizer_config.json")
        file = beside / "chat_template.jinja"
        template = file.read_text(encoding="utf-8") if file.is_file() else tokenizer_config.get("chat_template") or ""
        if isinstance(template, list):  # several named templates
            template = next((one["template"] for one in template if one["name"] == "default"), "")
        return cls(folder, _json(folder / "config.json"), tokenizer_config, template)

    @property
    def max_positions(self) -> int | None:
        """The longest input in tokens, by the model and by its tokenizer; ``None`` where neither says.

        Of a model with other rotary frequencies for long rows: the longest short one, as engines keep to those.
        """
        text = {**self.config, **(self.config.get("text_config") or {})}
        model = text.get("max_position_embeddings")
        if model is not None and text.get("model_type") in _OFFSET_POSITIONS:
            model -= int(text.get("pad_token_id") or 0) + 1
        told = (model, self.tokenizer_config.get("model_max_length"), _longest_short_row(text))
        limits = [n for n in told if n is not None and n < _NO_LIMIT]
        return int(min(limits)) if limits else None

    @property
    def fingerprint(self) -> str:
        """Eight hex digits of the configuration, and of the weights' sizes and samples all over them.

        Samples of the whole file: fine-tunes of one base share their headers and, as a rule, their embeddings, which
        stand first.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        for file in sorted(self.folder.glob("*.safetensors")):
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
            with file.open("rb") as stream:
                for at in _sampled(file.stat().st_size):
                    stream.seek(at)
                    digest.update(stream.read(_SAMPLE_BYTES))
        return digest.hexdigest()[:8]

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Render the chat template, ready for the assistant's turn. May raise whatever the template raises."""
        import_torch()
        from transformers.utils.chat_template_utils import render_jinja_template

        named = {key: _text(self.tokenizer_config.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
        rendered, _ = render_jinja_template(
            conversations=[list(messages)],
            chat_template=self.chat_template,
            add_generation_prompt=True,
            **{key: value for key, value in named.items() if value is not None},
            **options,
        )
        text: str = rendered[0]
        return text


def _longest_short_row(text: Mapping[str, Any]) -> int | None:
    """Return up to which length a "longrope" model uses its short factors; ``None``: it has none, or does not say."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if "short_factor" not in rope:
        return None
    # Phi-3 writes it beside the factors' dictionary; what stands there counts more for transformers, too.
    length: int | None = text.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return length


def _sampled(size: int) -> list[int]:
    """Return where samples begin: at the start, at the end, and evenly between."""
    last = max(size - _SAMPLE_BYTES, 0)
    return sorted({last * step // (_SAMPLES - 1) for step in range(_SAMPLES)})


def _text(token: object) -> str | None:
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from None
    return read
