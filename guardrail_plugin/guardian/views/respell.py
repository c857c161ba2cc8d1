"""Join letters that were set apart ("b o m b", "b-o-m-b") and read digits that stand for letters ("b0mb").

Sources: arXiv 2504.11168 ("numbers" and "spaces" against six guardrails); Prompt Guard 1's spacing bypass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

_BLANK = " \t\u00a0\u2000-\u200a\u2800\u3000"
_ALPHABET = "A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u052f"
_LETTER = f"[{_ALPHABET}0-57@$]"
# A run stands alone, but for an underscore at an end. What ends it may also part its letters: then the first step back
# from a run that goes wrong at its end is a match, and the time stays linear.
_BEGINS = "(?<![^\\W_])(?<![^\\W_]_)"
_ENDS = "(?!_?[^\\W_])"
_SPACED = re.compile(f"{_BEGINS}{_LETTER}(?:[{_BLANK}]{{1,4}}{_LETTER}){{2,}}{_ENDS}")
_GAP = re.compile(f"[{_BLANK}]+")
_SIGN = "-._*/\\\\|~+·•^\u2010-\u2015\u2190-\u2bff\u30fb\ufe0f\U0001f000-\U0001faff"
# "a **b-o-m-b**": what stands on one side of a sign only is no separator, unless it comes again.
_LOPSIDED = (
    f"(?![{_BLANK}][{_SIGN}]{{1,3}}{_LETTER}(?![{_BLANK}][{_SIGN}]))"
    f"(?![{_SIGN}]{{1,3}}[{_BLANK}]{_LETTER}(?![{_SIGN}]{{1,3}}[{_BLANK}]))"
)
_SIGNED = re.compile(
    f"{_BEGINS}({_LETTER}){_LOPSIDED}((?:[{_BLANK}]?[{_SIGN}]{{1,3}}[{_BLANK}]?)){_LETTER}(?:\\2{_LETTER})*{_ENDS}"
)
_HANGUL = re.compile(f"{_BEGINS}[가-힣](?:[ ._*-]{{1,2}}[가-힣]){{4,}}{_ENDS}")
_HANGUL_SERIES = ("월화수목금토일", "일이삼사오육칠팔구십", "가나다라마바사아자차카타파하", "동서남북상하좌우")
# Between single letters these are arithmetic or alternatives more often than a disguise.
_OPERATORS = "+*/^|\\"

_ARTICLES = ("a", "an", "the")
_READ_AS = str.maketrans("013457@$!€", "oieastasie")
_VOWELS = frozenset("aeiouyаеёиоуыэюяіїєαεηιουω")
_CONSONANTS = frozenset("bcdfghjklmnpqrstvwxz")
_ONSETS = frozenset(
    "bl br ch cl cr dr dw fl fr gh gl gn gr kl kn kr ph pl pr ps rh sc sh sk sl sm sn sp sq st sv sw th tr ts tw wh "
    "wr".split()
)
_ORDINARY_RUNS = frozenset(("wasd", "wsad", "awsd", "asdf", "etaoin", "aeiou"))

_LEETISH = re.compile(r"[A-Za-z][0-57@$!€]{1,2}[A-Za-z]")
_LEET_WORD = re.compile(r"(?<![\w@$!€./\\:#=&%+-])[A-Za-z0-9@$!€]{2,}(?![\w@$!€]|[./\\:#=+-]\w)")
_SHORT_WORDS = ("t0", "d0", "n0", "s0", "g0")
_DIGITS = re.compile(r"[0-9@$!€]+")
_NUMBERED = re.compile(r"[A-Za-z@$!€]+[0-9]+")  # version2, sha1
_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]+")
_READABLE = re.compile(r"[0-57@$!€]+")
_HEX = re.compile(r"[0-9a-fA-F]+")
# Consonant, digit for a vowel, consonant.
_INNER = re.compile(r"(?<=[b-df-hj-np-tv-z])[0134@!€](?=[b-df-hj-np-tv-z])")
_PRODUCTS = re.compile(
    r"log4|s3fs|s3cmd|d3js|k3s|[fp]m3[cmn]|p2p|b2b|mp[34]|ps[345]|c3po|n8n|h\d+n\d+|f1score|web3|html5|css3|h5py|i3wm|utf"
)


# From a run of single letters: the word, whether it surely is one, and what set its letters apart.
_Join: TypeAlias = Callable[[re.Match[str]], tuple[str, bool, str]]


def respell(text: str) -> tuple[str, bool]:
    """Return the text with its words whole, and whether any had been taken apart or written with digits."""
    text, spaced = _joined(text, _SPACED, _close_gaps)
    text, signed = _joined(text, _SIGNED, _drop_signs)
    text, hangul = _join_hangul(text)
    text, leet = _unleet(text)
    return text, spaced or signed or hangul or leet


def _joined(text: str, pattern: re.Pattern[str], join: _Join) -> tuple[str, bool]:
    """Join every run if one of them is surely a word; short ones ("t-o") follow only when it used their separator."""
    sure = {kind for match in pattern.finditer(text) for _, proof, kind in [join(match)] if proof}
    if not sure:
        return text, False

    def replaced(match: re.Match[str]) -> str:
        word, proof, kind = join(match)
        return word if proof or (kind in sure and not _is_series(word)) else match.group()

    return pattern.sub(replaced, text), True


def _close_gaps(match: re.Match[str]) -> tuple[str, bool, str]:
    """Join at the narrowest gap; wider ones part words."""
    run = match.group()
    gaps = _GAP.findall(run)
    narrow = min(map(len, gaps))
    word = _GAP.sub(lambda gap: "" if len(gap.group()) == narrow else " ", run)
    before = match.string[max(0, match.start() - 12) : match.start()].split()
    alone = run[0] in "aiAI" and _begins_a_word(word[1:].lstrip())
    if before and alone and before[-1].lower() not in _ARTICLES:  # "make a b o m b": a word of its own
        return f"{word[0]} {word[1:].lstrip()}", _is_word(word[1:].replace(" ", "")), " "
    return word, _is_word(word.replace(" ", "")), " "


def _begins_a_word(letters: str) -> bool:
    """Say whether a word may begin so: "rson" does not, so its "a" is no article."""
    first, second = letters[:1].lower(), letters[1:2].lower()
    both = first in _CONSONANTS and second in _CONSONANTS
    return not both or first + second in _ONSETS


def _drop_signs(match: re.Match[str]) -> tuple[str, bool, str]:
    separator = match.group(2)
    word = match.group().replace(separator, "")
    sign = separator.strip()
    dotted = sign == "." and word.isupper() and len(word) < 6  # U.S.S.R., N.A.T.O.
    return word, not dotted and len(word) > (3 if sign[:1] not in _OPERATORS else 4) and _is_word(word), sign


def _is_word(letters: str) -> bool:
    """Say whether a run of single letters spells something, and is no enumeration, chord row, gene or answer key."""
    read = letters.lower().translate(_READ_AS)
    digits = sum(map(str.isdigit, letters))
    vowels = sum(c in _VOWELS for c in read)
    if len(letters) < 4 or 2 * digits >= len(letters) or not 0 < vowels < len(letters) or len(set(read)) < 3:
        return False
    if letters.isupper() and (set(letters) <= set("ABCDEFG") or set(letters) <= set("ACGTUN")):
        return False
    return not _is_series(read) and not any(read.startswith(run) for run in _ORDINARY_RUNS)


def _is_series(letters: str) -> bool:
    steps = {ord(b) - ord(a) for a, b in pairwise(letters)}
    return len(letters) > 2 and steps in ({1}, {-1}, {0})


def _join_hangul(text: str) -> tuple[str, bool]:
    found = False

    def joined(match: re.Match[str]) -> str:
        nonlocal found
        syllables = re.sub("[ ._*-]", "", match.group())
        if any(set(syllables) <= set(series) for series in _HANGUL_SERIES) or len(set(syllables)) < 4:
            return match.group()
        found = True
        return syllables

    return _HANGUL.sub(joined, text), found


def _unleet(text: str) -> tuple[str, bool]:
    """Read digits as letters if one word is surely written so, or two probably."""
    if not _LEETISH.search(text):
        return text, False
    sure = False
    probable: set[str] = set()
    for match in _LEET_WORD.finditer(text):
        grade = _leet_grade(match.group().strip("@$!€"))
        if grade == 2:
            sure = True
            break
        if grade == 1:
            probable.add(match.group().lower())
            if len(probable) > 1:
                break
    if not sure and len(probable) < 2:
        return text, False
    return _LEET_WORD.sub(_read_leet, text), True


def _read_leet(match: re.Match[str]) -> str:
    """Where leet is proved, read every word that could be; short look-alikes of hexadecimal ("c0de") too."""
    word = match.group()
    core = word.strip("@$!€")
    if core.lower() in _SHORT_WORDS:
        return word.replace("0", "o")
    if not _is_mixed(core) or (_HEX.fullmatch(core) and len(core) > 5) or _NUMBERED.fullmatch(core):
        return word
    return word.replace(core, core.translate(_READ_AS))


def _is_mixed(word: str) -> bool:
    """Say whether letters in one case and a few digits that look like letters make up this word."""
    digits = _DIGITS.findall(word)
    letters = len(word) - sum(map(len, digits))
    return (
        bool(digits)
        and letters > 1
        and 2 * letters >= len(word)
        and (word[1:].islower() or word.isupper())
        and all(len(run) < 3 and _READABLE.fullmatch(run) for run in digits)
        and not _PRODUCTS.match(word.lower())
        and not _ADDRESS.fullmatch(word)
    )


def _leet_grade(word: str) -> int:
    """Return 2 for a word surely written with digits, 1 for a probable one, 0 for a name, a number or a code."""
    lower = word.lower()
    if len(word) < 4 or not _is_mixed(word) or _HEX.fullmatch(word) or not _INNER.search(lower):
        return 0
    runs = _DIGITS.findall(word)
    if len(runs) == 1 and (len(set(runs[0])) > 1 or word.endswith(runs[0])):  # oauth21x, sha1
        return 0
    has_vowels = bool(_VOWELS & set(lower))
    if word.isupper():
        return 0 if has_vowels else 1
    if len(runs) > 1 or not has_vowels:
        return 2
    left, _, right = lower.partition(runs[0])
    return 0 if len(right) < 2 or (runs[0] == "@" and len(left) > 3) else 1  # conv1d, guest@host
