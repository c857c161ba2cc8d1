"""A ``tokenizer.json`` read in two ways: as templates are written, and as foreign text must be read."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError, ModelNotFoundError

_SURROGATES = re.compile("[\ud800-\udfff]")
_PROBE = "x"
_ENDS = ("<|eot_id|>", "<|eot|>", "<|im_end|>", "<end_of_turn>", "<|end_of_text|>", "<|end|>", "</s>", "[SEP]", "<eos>")


class TokenizerFile:
    """The tokenizer of a checkpoint.

    For content every added token is taken out of the tokenizer, so that ``<|eot_id|>`` in a text is plain characters,
    and so is ``<think>``, which is an added token though not a "special" one. Runs of white space stay tokens.

    Attributes:
        bos: what the tokenizer puts in front of a prompt.
        reserved: ids that content never contains.
        ids_per_token: one.

    Raises:
        MissingDependencyError: ``tokenizers`` is not installed.
        ModelNotFoundError: there is no ``tokenizer.json`` at the path.
    """

    ids_per_token: int = 1

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingDependencyError("tokenizers", extra="local") from None
        if not path.is_file():
            raise ModelNotFoundError(f"no tokenizer.json at {path}: save it with AutoTokenizer(...).save_pretrained")
        spec = {**json.loads(path.read_bytes()), "truncation": None, "padding": None}
        added = spec["added_tokens"]
        blank = [token for token in added if not token["special"] and not token["content"].strip()]
        self.reserved = frozenset(int(token["id"]) for token in added if token not in blank)
        self._full: Any = Tokenizer.from_str(json.dumps(spec))
        later = _without_prepended_space(spec)
        self._later: Any = self._full if later == spec else Tokenizer.from_str(json.dumps(later))
        plain: dict[str, Any] = {"added_tokens": blank, "post_processor": None}
        self._plain: Any = Tokenizer.from_str(json.dumps({**later, **plain}))
        self._plain_first: Any = self._plain if later == spec else Tokenizer.from_str(json.dumps({**spec, **plain}))
        self.bos = self.wrap()[0]
        self._end = next((i for i in map(self._full.token_to_id, _ENDS) if i is not None), None)

    @property
    def end(self) -> int:
        """Id of the token that ends a turn or text.

        Raises:
            ConfigError: the vocabulary has none that we know.
        """
        if self._end is None:
            raise ConfigError(f"the tokenizer has none of {', '.join(_ENDS)} to end a turn")
        return int(self._end)

    def template(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of a part of a template."""
        ids: list[int] = (self._full if first else self._later).encode(text, add_special_tokens=False).ids
        return ids

    def content(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of foreign text. Lone surrogates, which UTF-8 cannot hold, become U+FFFD.

        ``first``: it is read as a text by itself, as classifiers are given theirs, and not as what follows a template.
        """
        plain = self._plain_first if first else self._plain
        ids: list[int] = plain.encode(_SURROGATES.sub("\ufffd", text), add_special_tokens=False).ids
        # A vocabulary that holds a control token's text itself (SentencePiece) could still build its id.
        return [i for i in ids if i not in self.reserved] if not self.reserved.isdisjoint(ids) else ids

    def label(self, text: str) -> tuple[int, ...]:
        """Return the ids of an answer, as it follows other text."""
        return tuple(self.template(text))

    def wrap(self, *, pair: bool = False) -> tuple[tuple[int, ...], ...]:
        """Return what stands before, between (with ``pair``) and after texts."""
        plain = tuple(self._full.encode(_PROBE, add_special_tokens=False).ids)
        texts = (_PROBE, _PROBE) if pair else (_PROBE,)
        rest = tuple(self._full.encode(*texts).ids)
        parts: list[tuple[int, ...]] = []
        for _ in texts:
            at = next(i for i in range(len(rest)) if rest[i : i + len(plain)] == plain)
            parts.append(rest[:at])
            rest = rest[at + len(plain) :]
        return (*parts, rest)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, control tokens written out."""
        text: str = self._full.decode(list(token_ids), skip_special_tokens=False)
        return text

    def prompt(self, token_ids: Sequence[int]) -> list[int]:
        """Return what a server is sent: the ids themselves."""
        return list(token_ids)

    def piece(self, token_id: int) -> str:
        """Return one token as a server writes it in its log-probabilities."""
        raw: str = self._full.id_to_token(token_id) or ""
        return self.decode([token_id]) if not raw.startswith("▁") else raw.replace("▁", " ")


def _without_prepended_space(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer as it reads what follows other text: SentencePiece puts a space before the very first."""
    later = copy.deepcopy({key: spec.get(key) for key in ("normalizer", "pre_tokenizer")})
    for part in (later["normalizer"], later["pre_tokenizer"]):
        for step in _steps(part):
            if step.get("type") == "Metaspace":
                step["prepend_scheme"] = "never"
    normalizer = later["normalizer"]
    if normalizer and normalizer.get("type") == "Prepend":
        later["normalizer"] = None
    elif normalizer and normalizer.get("type") == "Sequence":
        normalizer["normalizers"] = [n for n in normalizer["normalizers"] if n.get("type") != "Prepend"]
    return {**spec, **later}


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return [part, *inner]
