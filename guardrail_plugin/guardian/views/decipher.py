"""Read letters that were replaced one by one: ROT13, text from its end, Morse, the radio alphabet.

A phrase is read in another way only if English function words come out that were not there before.
"""

from __future__ import annotations

import codecs
import re
from itertools import pairwise
from string import ascii_lowercase, digits

_PHRASE = re.compile(r"[^:;!?\n\"“”«».()\[\]{}|]+")
_LETTERS = re.compile(r"[a-z]+")
_WORD = re.compile(r"(?<![\w+/=])[a-z]+(?![\w+/=])")  # no piece of base64
_STRONG = "the how make what you with this that for give write your from tell which should explain and"
_WEAK = "to is of in a i me can do my it on are"
# Enciphered or reversed, these are words of some language or common abbreviations.
_ACCIDENTS = "dna va vs gb si ni na fo no on era rof a i ot em od ym"

_MORSE_CODE = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_MORSE_LETTERS = dict(zip(_MORSE_CODE.split(), ascii_lowercase + digits, strict=True))
_MORSE = re.compile(r"(?<![^\s'\"`(\[:])[.·•−–-]{1,5}(?:[ /|]{1,3}[.·•−–-]{1,5}){3,}(?![^\s'\"`)\],?!/|])")
_MORSE_SIGNS = str.maketrans("·•−–", "..--")
_WORD_GAP = re.compile(r" ?[/|] ?| {2,}")

_RADIO_ALPHABET = (
    "alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec "
    "romeo sierra tango uniform victor whiskey xray yankee zulu alpha juliet"
)
_RADIO = dict(zip(_RADIO_ALPHABET.split(), ascii_lowercase + "aj", strict=True))
_RADIO_WORD = rf"(?:{'|'.join(_RADIO)})"
_RADIO_RUN = re.compile(rf"\b{_RADIO_WORD}(?:[ ,-]{{1,2}}{_RADIO_WORD}){{2,}}\b", re.IGNORECASE)


_PLAIN = frozenset(_STRONG.split())
_FUNCTION_WORDS = (*_STRONG.split(), *_WEAK.split())


class _Cipher:
    """Function words as a cipher writes them, and how to read a phrase that holds them."""

    def __init__(self, write: dict[str, str]) -> None:
        self.strong = {cipher for plain, cipher in write.items() if plain in _PLAIN} - set(_ACCIDENTS.split())
        self.weak = set(write.values()) - self.strong

    def fits(self, words: set[str]) -> bool:
        """Say whether a phrase of these words is enciphered: two function words, one of them unmistakable."""
        strong = len(words & self.strong)
        return strong > 0 and strong + len(words & self.weak) > 1 and strong >= len(words & _PLAIN)


_ROT13 = _Cipher({word: codecs.encode(word, "rot13") for word in _FUNCTION_WORDS})
_BACKWARDS = _Cipher({word: word[::-1] for word in _FUNCTION_WORDS})
# A question or an order that opens with its first word reversed has its words reversed one by one.
_OPENERS = frozenset(word[::-1] for word in ("how", "what", "give", "write", "tell", "make", "explain", "which"))


def decipher(text: str) -> str:
    """Return the text with enciphered phrases read; unchanged if there are none."""
    text = _morse(text)
    words = set(_WORD.findall(text.lower()))
    if len(words & _RADIO.keys()) > 1:
        text = _radio(text)
    return _PHRASE.sub(_read_phrase, text) if words & (_ROT13.strong | _BACKWARDS.strong) else text


def _read_phrase(match: re.Match[str]) -> str:
    phrase = match.group()
    words = _WORD.findall(phrase.lower())
    known = set(words)
    if _ROT13.fits(known):
        return codecs.encode(phrase, "rot13")
    if _BACKWARDS.fits(known):
        return _by_word(phrase) if words[0] in _OPENERS else phrase[::-1]
    return phrase


def _by_word(phrase: str) -> str:
    return " ".join(word[::-1] for word in phrase.split(" "))


def _morse(text: str) -> str:
    def read(match: re.Match[str]) -> str:
        signs = match.group().translate(_MORSE_SIGNS)
        words = [[_MORSE_LETTERS.get(sign) for sign in word.split()] for word in _WORD_GAP.split(signs)]
        spelt = " ".join("".join(letter or "?" for letter in word) for word in words)
        spells = "." in signs and "-" in signs and "?" not in spelt
        return spelt if spells and len(set(spelt)) > 2 and set(spelt) & set("aeiou") else match.group()

    return _MORSE.sub(read, text)


def _radio(text: str) -> str:
    def read(match: re.Match[str]) -> str:
        letters = "".join(_RADIO[word] for word in _LETTERS.findall(match.group().lower()))
        steps = {ord(b) - ord(a) for a, b in pairwise(letters)}
        # "Alpha, Bravo, Charlie" is a row, and a word without a vowel is no word.
        return match.group() if 1 in steps or not set(letters) & set("aeiouy") else letters

    return _RADIO_RUN.sub(read, text)
