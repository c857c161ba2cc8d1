"""Checked text → token ids in which nothing can be a control token."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from guardrail_plugin.core.errors import MissingDependencyError, ModelNotFoundError

_SURROGATES = re.compile("[\ud800-\udfff]")


class ContentTokenizer(Protocol):
    """Tokenises content. No id that it returns is a special token, whatever the text says."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without any special token added or recognised."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids."""


class FastContentTokenizer:
    """A ``tokenizer.json`` stripped of every added token, so ``<|im_end|>`` in a text is plain characters.

    Special tokens of the base sit in its list of added tokens. With that list empty, the byte-level model has only
    its merges, and none of them builds a special token's string. ``reserved`` is what it checks after every call.

    Attributes:
        sha256: of the vocabulary (token and id), which is what weights depend on; files that write the same vocabulary
            differently (a hub's, a GGUF conversion's) agree.
        reserved: ids of the base's special tokens.

    Raises:
        MissingDependencyError: ``tokenizers`` is not installed.
        ModelNotFoundError: there is no ``tokenizer.json`` in the folder.
    """

    def __init__(self, tokenizer_json: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingDependencyError("tokenizers", extra="local") from None
        if not tokenizer_json.is_file():
            raise ModelNotFoundError(f"no tokenizer.json at {tokenizer_json}")
        spec = json.loads(tokenizer_json.read_bytes())
        self.sha256 = _vocabulary_sha256(spec["model"]["vocab"])
        self.reserved = frozenset(int(token["id"]) for token in spec["added_tokens"])
        spec["added_tokens"] = []
        spec["post_processor"] = None
        spec["truncation"] = None
        spec["padding"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Lone surrogates, which UTF-8 cannot hold, become U+FFFD."""
        ids: list[int] = self._tokenizer.encode(_SURROGATES.sub("\ufffd", text), add_special_tokens=False).ids
        # A base whose merges could build a reserved id would break the promise: drop such ids rather than obey them.
        return [i for i in ids if i not in self.reserved] if not self.reserved.isdisjoint(ids) else ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; ids outside the content vocabulary are left out."""
        size = self._tokenizer.get_vocab_size()
        kept = [i for i in token_ids if i < size and i not in self.reserved]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False)
        return text


def _vocabulary_sha256(vocabulary: Mapping[str, int]) -> str:
    digest = hashlib.sha256()
    for token, number in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        digest.update(f"{number}\t{token}\n".encode())
    return digest.hexdigest()
