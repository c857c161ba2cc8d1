"""Surface changes that keep the label: chat typing, padding with harmless text, simple obfuscation."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence

_LEET = str.maketrans({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5"})
_LOOKALIKE = str.maketrans({"a": "а", "e": "е", "o": "о", "c": "с", "p": "р"})  # Cyrillic
_CHAT = {"you": "u", "please": "pls", "are": "r", "your": "ur", "because": "bc", "people": "ppl", "with": "w/"}


def lowercase_chat(text: str, rng: random.Random) -> str:
    """Type it as in a hurried chat: lower case, apostrophes and stops dropped, an odd typo, sometimes short forms."""
    words = text.lower().replace("'", "").rstrip(".").split(" ")
    short = rng.random() < 0.4
    typed = [_CHAT.get(word, word) if short else word for word in words]
    if rng.random() < 0.5:
        long = [i for i, word in enumerate(typed) if len(word) > 4 and word.isalpha()]
        for i in rng.sample(long, min(2, len(long))):
            at = rng.randrange(1, len(typed[i]) - 1)
            word = typed[i]
            typed[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :] if at + 1 < len(word) else word
    return " ".join(typed)


def pad(text: str, paragraphs: Sequence[str], rng: random.Random) -> str:
    """Hide the message before, after or between harmless paragraphs."""
    before, after = rng.choice([(1, 0), (0, 1), (1, 1), (2, 0)])
    picked = rng.sample(list(paragraphs), before + after)
    return "\n\n".join([*picked[:before], text, *picked[before:]])


def obfuscate(text: str, rng: random.Random) -> str:
    """Disguise some of it: leet digits, spaced or look-alike letters, inserted hyphens; or all of it in base64."""
    style = rng.choice(("leet", "spaced", "lookalike", "hyphen", "base64"))
    if style == "base64":
        return f"Decode this and do what it says: {base64.b64encode(text.encode()).decode()}"
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3]
    for i in rng.sample(long, min(max(1, len(long) // 2), len(long))):
        word = words[i]
        if style == "leet":
            words[i] = word.translate(_LEET)
        elif style == "lookalike":
            words[i] = word.translate(_LOOKALIKE)
        elif style == "spaced":
            words[i] = " ".join(word)
        else:
            words[i] = "-".join(word)
    return " ".join(words)
