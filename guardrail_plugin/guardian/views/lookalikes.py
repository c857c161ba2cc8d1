"""Write styled letters and letters of another alphabet as the letters that they pass for.

Sources: arXiv 2504.11168 (homoglyphs and full-width text against six guardrails); UTS #39 for the idea of
confusables. The tables are our own and small: what attack tools use.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from string import ascii_lowercase as _AZ

# Arabic ligatures that NFKC blows up to 18 letters: left as they are, so that no text grows without bound.
_LIGATURES = ("\ufdfa", "\ufdfb")

_STYLED = (
    "\u2102\u210a-\u2115\u2119-\u211d\u2124\u2128\u212c-\u2131\u2133\u2134\u249c-\u24e9"
    "\U0001d400-\U0001d7cb\U0001f110-\U0001f129\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189"
)
_MODIFIER = "\u02b0-\u02b8\u02e1-\u02e3\u1d2c-\u1d6a\u2071\u207f\u2090-\u209c"
_SMALL_CAPITALS = "\u1d00-\u1d22\ua730\ua731"
_WIDE = "\uff21-\uff3a\uff41-\uff5a"
_FANCY = re.compile(f"[{_STYLED}{_MODIFIER}{_SMALL_CAPITALS}{_WIDE}\U0001f1e6-\U0001f1ff]")
_STYLED_RUN = re.compile(f"[{_STYLED}]{{3,}}")
_MODIFIER_RUN = re.compile(f"[{_MODIFIER}]{{4,}}")
_STYLE_MIX = re.compile(f"[A-Za-z{_STYLED}{_WIDE}]{{4,}}")
_IN_STYLE = re.compile(f"[{_STYLED}{_WIDE}]")
_SMALL_CAPITAL_WORD = re.compile(f"[{_SMALL_CAPITALS}a-z\u0262\u026a\u0274\u0280\u0299\u029c\u029f]{{3,}}")
_SMALL_CAPITAL = re.compile(f"[{_SMALL_CAPITALS}]")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
_WIDE_RUN = re.compile(f"[{_WIDE}]{{3,}}")
_INDICATORS = re.compile("[\U0001f1e6-\U0001f1ff](?:[ .-]?[\U0001f1e6-\U0001f1ff]){2,}")
_FLAGS = (
    "ACADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZCACCCDCFCGCHCICKCLCMCNCOCPCRCUCVCWCXCYCZ"
    "DEDGDJDKDMDODZEAECEEEGEHERESETEUFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGMGNGPGQGRGSGTGUGWGYHKHMHNHRHTHUICIDIEILIMINIOIQIRISIT"
    "JEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLTLULVLYMAMCMDMEMFMGMHMKMLMMMNMOMPMQMRMSMTMUMVMWMXMYMZNANCNENFNGNINLNONP"
    "NRNUNZOMPAPEPFPGPHPKPLPMPNPRPSPTPWPYQARERORSRURWSASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZTATCTDTFTGTHTJTKTLTMTNTOTR"
    "TTTVTWTZUAUGUMUNUSUYUZVAVCVEVGVIVNVUWFWSXKYEYTZAZMZW"
)

_FOREIGN = "\u0251\u0261\u0370-\u03ff\u0400-\u052f\u0531-\u0587\u13a0-\u13f5"
# A match starts at a word's first letter, so that a long plain word is walked once.
_MIXED_WORD = re.compile(f"(?<![A-Za-z{_FOREIGN}])(?:[A-Za-z]+[{_FOREIGN}]|[{_FOREIGN}]+[A-Za-z])[A-Za-z{_FOREIGN}]*")
_MIXED_PAIR = re.compile(f"(?<!\\w)(?:[A-Za-z][{_FOREIGN}]|[{_FOREIGN}][A-Za-z])(?!\\w)")
_PROOF_LETTERS = 3
_FOREIGN_WORD = re.compile(f"(?<!\\w)[{_FOREIGN}]+(?!\\w)")
_MIX = re.compile(f"[A-Za-z][{_FOREIGN}]|[{_FOREIGN}][A-Za-z]")
_ONE_TURN = re.compile(f"([A-Za-z]{{2,}})([{_FOREIGN}]+)")
_SYMBOL = "[\u03b1-\u03b8\u03ba-\u03be\u03c0-\u03c4\u03c6-\u03c9]"  # no iota, omicron, upsilon: those are for disguise
_FORMULA = re.compile(f"{_SYMBOL}[A-Za-z]{{1,3}}|[A-Za-z]{{1,3}}{_SYMBOL}")  # ρgh, αmax, sinα
_CYRILLIC = re.compile("[\u0400-\u052f]")
_LATIN = re.compile("[A-Za-z]")


def _pairs(foreign: str, latin: str) -> dict[str, str]:
    return dict(zip(foreign, latin, strict=True))


_TO_LATIN = {
    **_pairs("авгекмнопрстухьіјѕһԁԛԝӏүѵё", "abrekmhonpctyxbijshdqwlyve"),
    **_pairs("АВЕЗКМНОРСТУХІЈЅԌԚԜӀҮѴЁ", "ABE3KMHOPCTYXIJSGQWIYVE"),
    **_pairs("αβγεηικνορστυχωϲϳ", "abyenikvopstuxwcj"),
    **_pairs("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹ", "ABEZHIKMNOPTYXC"),
    **_pairs("օոսհցզյք", "onuhgqjp"),
    **_pairs("ᎪᏴᏟᎠᎬᏀᎻᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᏃ", "ABCDEGHJKLMPRSTVWZ"),
    **_pairs("ɑɡ", "ag"),
}
_TO_LATIN = {**_TO_LATIN, "с": "c", "т": "t"}
_TO_CYRILLIC = _pairs("aceopxykmthbijsABEKMHOPCTXYIJ", "асеорхукмтнвіјѕАВЕКМНОРСТХУІЈ")


def undisguise(text: str) -> tuple[str, bool]:
    """Return the text in plain letters (NFKC), and whether letters were disguised.

    Single styled letters (maths), full-width words in Japanese, trademark signs and the like are folded too, but are
    no evidence.
    """
    if text.isascii():
        return text, False
    text, styled = _unstyled(text)
    text = _compatible(text)
    text, mixed = _one_script(text)
    return text, styled or mixed


def _compatible(text: str) -> str:
    for ligature in _LIGATURES:
        if ligature in text:
            return ligature.join(map(_compatible, text.split(ligature)))
    return unicodedata.normalize("NFKC", text)


def _unstyled(text: str) -> tuple[str, bool]:
    if not _FANCY.search(text):
        return text, False
    text, spelt_in_flags = _unflagged(text)
    evidence = spelt_in_flags or _is_styled(text) or _is_wide(text)
    return text.translate(_plain_letters()), evidence


def _is_styled(text: str) -> bool:
    runs = _STYLED_RUN.findall(text)
    if len(runs) > 1 or any(len(run) > 3 for run in runs) or _MODIFIER_RUN.search(text):
        return True
    if any(len(_SMALL_CAPITAL.findall(word)) > 1 for word in _SMALL_CAPITAL_WORD.findall(text)):
        return True
    return any(0 < len(_IN_STYLE.findall(word)) < len(word) for word in _STYLE_MIX.findall(text))


def _is_wide(text: str) -> bool:
    """Full-width words are ordinary among ideographs, kana and hangul, and a disguise elsewhere."""
    wide = sum(map(len, _WIDE_RUN.findall(text)))
    return wide > 0 and wide > len(_CJK.findall(text))


def _unflagged(text: str) -> tuple[str, bool]:
    """Read regional indicators that are no flags as letters."""
    known = {_FLAGS[i : i + 2] for i in range(0, len(_FLAGS), 2)}
    found = False

    def read(match: re.Match[str]) -> str:
        nonlocal found
        letters = "".join(chr(ord(c) - 0x1F1E6 + 65) for c in match.group() if c > "\U0001f1e5")
        if len(letters) % 2 == 0 and all(letters[i : i + 2] in known for i in range(0, len(letters), 2)):
            return match.group()
        found = True
        return letters.lower()

    return _INDICATORS.sub(read, text), found


@cache
def _plain_letters() -> dict[int, str]:
    """Letters that NFKC leaves alone or wraps in parentheses."""
    table: dict[int, str] = {}
    for first in (0x249C, 0x1F110, 0x1F130, 0x1F150, 0x1F170):
        table |= {first + i: letter for i, letter in enumerate(_AZ)}
    small = zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True)
    return table | {ord(capital): letter for capital, letter in small}


def _one_script(text: str) -> tuple[str, bool]:
    """Map look-alikes inside words that mix alphabets, towards the alphabet that takes all of the word."""
    latin_letters = len(_LATIN.findall(text))
    cyrillic_text = len(_CYRILLIC.findall(text)) > latin_letters
    found = not cyrillic_text and _passes_for_latin(_FOREIGN_WORD.findall(text), latin_letters)
    if not found and not _MIX.search(text):
        return text, False

    def mapped(match: re.Match[str]) -> str:
        nonlocal found
        word = match.group()
        if len(word) < 3 or _is_lawful_mix(word, cyrillic_text):
            return word
        latin = [_TO_LATIN.get(c, c) for c in word]
        cyrillic = [_TO_CYRILLIC.get(c, c) for c in word]
        fits_latin, fits_cyrillic = "".join(latin).isascii(), all(c >= "\u0400" for c in cyrillic)
        if not (fits_latin or fits_cyrillic):
            return word
        found = True
        return "".join(cyrillic if fits_cyrillic and (cyrillic_text or not fits_latin) else latin)

    text = _MIXED_WORD.sub(mapped, text)
    if found and not cyrillic_text:
        text = _MIXED_PAIR.sub(_as_latin, _FOREIGN_WORD.sub(_as_latin, text))
    return text, found


def _passes_for_latin(words: Sequence[str], latin_letters: int) -> bool:
    """Say whether all foreign words of a Latin text look like Latin ones: in a real language few do."""
    long = [word for word in words if len(word) > 1]
    if not any(len(word) > _PROOF_LETTERS for word in long) or latin_letters <= sum(map(len, long)):
        return False
    return all(c in _TO_LATIN for word in long for c in word)


def _as_latin(match: re.Match[str]) -> str:
    word = "".join(_TO_LATIN.get(c, c) for c in match.group())
    return word if word.isascii() else match.group()


def _is_lawful_mix(word: str, cyrillic_text: bool) -> bool:
    """Spare case endings on foreign names (SMSка, facebookе), gene names (NFκB, TNFα) and formulas (ρgh, sinα)."""
    if _FORMULA.fullmatch(word):
        return True
    latin, foreign = "".join(_LATIN.findall(word)), _LATIN.sub("", word)
    if latin.isupper() and foreign.islower() and len(latin) > 1:
        return True
    return cyrillic_text and _ONE_TURN.fullmatch(word) is not None
