"""When enough of an answer has come to be worth a check, and how much of what came before is judged with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from guardrail_plugin.core.errors import ConfigError, did_you_mean

WindowSetting: TypeAlias = Literal["sentence", "answer"] | int
"""``"sentence"``, a number of words, or ``"answer"``: hold everything until the end."""

REACH_CHARS = 1400
"""Most text of a long answer that a window's check reads: about one pass of the embedded guardian (384 tokens)."""

_OVERLAP_CHARS = 400
"""Of that, what stood before the window."""

_MIN_SENTENCE_CHARS = 16
"""Below it "1." or "Dr." would be judged on its own: a check that costs and tells nothing."""

_MAX_SENTENCE_CHARS = 400
"""Code, tables and lists have no sentences: a window never waits for more than this."""

_MAX_CHARS_PER_WORD = 16
"""A word window never waits for more than this per word, whatever the script."""

_SENTENCE_END = re.compile(r"""[.!?…]["'”’»)\]]*\s|[。！？।؟]|\n""")

# Scripts without spaces: each character counts.
_WORDS = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Window:
    """How much text a check waits for."""

    setting: WindowSetting = "sentence"

    def __post_init__(self) -> None:
        """Check the setting.

        Raises:
            ConfigError: it is no known word and no positive number.
        """
        known = ("sentence", "answer")
        if isinstance(self.setting, bool) or not isinstance(self.setting, int | str):
            raise ConfigError(f"window must be 'sentence', 'answer' or a number of words, got {self.setting!r}")
        if isinstance(self.setting, int):
            if self.setting < 1:
                raise ConfigError(f"window must be 1 word or more, got {self.setting}")
        elif self.setting not in known:
            raise ConfigError(
                f"window={self.setting!r} is none of {', '.join(known)}{did_you_mean(self.setting, known)}"
            )

    def complete(self, held: str) -> bool:
        """Return whether text that waits is enough for a check.

        A sentence ends where white space follows its mark: "3." may go on to be "3.14".
        """
        if self.setting == "answer" or not held.strip():
            return False
        if self.setting == "sentence":
            return len(held) >= _MAX_SENTENCE_CHARS or _SENTENCE_END.search(held, _MIN_SENTENCE_CHARS) is not None
        return len(held) >= self.setting * _MAX_CHARS_PER_WORD or len(_WORDS.findall(held)) >= self.setting


def reach(text: str, judged: int) -> int:
    """Return where a window's check begins to read: at 0 for short answers, else with some judged text in front."""
    if len(text) <= REACH_CHARS:
        return 0
    start = min(len(text) - REACH_CHARS, max(judged - _OVERLAP_CHARS, 0))
    space = text.rfind(" ", max(start - 40, 0), start + 1)
    return start if space < 0 else space
