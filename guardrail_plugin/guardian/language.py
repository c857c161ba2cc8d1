"""Guess the language of a text: by its script, and for Latin script by function words and tell-tale letters.

Good enough to choose the language of an answer. Not for linguistics: close relatives (Czech and Slovak, Bosnian and
Croatian, Malay and Indonesian) are not told apart, and a short text without a clue is English.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

_SAMPLE_CHARACTERS = 4000
# A syllable or an ideograph says more than a letter: "Python 종료 방법" is Korean.
_SYLLABIC_WEIGHT = 3

_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x024F, "latin"), (0x1E00, 0x1EFF, "latin"),
    (0x0370, 0x03FF, "el"), (0x1F00, 0x1FFF, "el"), (0x0400, 0x052F, "cyrillic"), (0x0530, 0x058F, "hy"),
    (0x0590, 0x05FF, "he"), (0x0600, 0x06FF, "arabic"), (0x0750, 0x077F, "arabic"), (0xFB50, 0xFEFC, "arabic"),
    (0x0900, 0x097F, "hi"), (0x0980, 0x09FF, "bn"), (0x0A00, 0x0A7F, "pa"), (0x0A80, 0x0AFF, "gu"),
    (0x0B80, 0x0BFF, "ta"), (0x0C00, 0x0C7F, "te"), (0x0C80, 0x0CFF, "kn"), (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"), (0x0E00, 0x0E7F, "th"), (0x0E80, 0x0EFF, "lo"), (0x1000, 0x109F, "my"),
    (0x10A0, 0x10FF, "ka"), (0x1100, 0x11FF, "ko"), (0x1200, 0x137F, "am"), (0x1780, 0x17FF, "km"),
    (0x3040, 0x30FF, "kana"), (0x3130, 0x318F, "ko"), (0x31F0, 0x31FF, "kana"), (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"), (0xAC00, 0xD7A3, "ko"), (0xFF66, 0xFF9F, "kana"),
)  # fmt: skip
_SYLLABIC = frozenset(("ko", "han", "kana"))
_KANA_SHARE = 0.1

_UKRAINIAN = re.compile("[іїєґІЇЄҐ]")
_RUSSIAN_ONLY = re.compile("[ыэъёЫЭЪЁ]")
_SERBIAN = re.compile("[јљњћђџЈЉЊЋЂЏ]")
_URDU = re.compile("[ٹڈڑےںھ]")
_PERSIAN = re.compile("[پچژگکی]")

_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|„[^“\n]*“|«[^»\n]*»|「[^」\n]*」")
_MIN_WORDS_OUTSIDE = 2
_STOP_WORDS = {
    "en": "the of and to in is that it for you with on as are be this have from or by how what can i my not do a an "
    "make write give tell me explain why who when where which does should would could we they your his her was were "
    "at if about into there than then will please someone without need want get",
    "de": "der die das und ist nicht ein eine einen einem einer zu mit von den dem des für auf ich du wie kann man "
    "was mir sich auch es an im wenn aus bei nach wir sie mein meine ohne gib schreibe schreib erkläre mache über "
    "bitte sehr nun ihr ihre oder aber sind wird werden haben einfach soll wo warum welche",
    "fr": "le la les des un une et est que qui dans pour pas sur au aux avec ce cette il elle je tu vous nous mon ma "
    "mes comment quoi quel quelle sont du par mais ou sans faire puis moi quelqu être écris donne expliquer "
    "expliquez ne se peut peux pourquoi fabriquer chez leur",
    "es": "el la los las de que y en un una es para con por no se su lo como cómo del al más pero sus le qué mi me "
    "puedo hacer quiero sin sobre este esta son cuál dónde cuando dime dame escribe explica yo tu una alguien muy "
    "están fue hay quién porque",
    "it": "il lo la i gli le di che e è un una per con non in del della dei delle al alla come posso cosa sono mi si "
    "da su anche ma più senza fare voglio questo questa nel nella scrivi dimmi spiega qualcuno perché quando dove "
    "ho hai suo degli dal chi quali quale tutti tutto se così ti uno stai sei fa",
    "pt": "o os a as de que e em um uma para com não por do da dos das no na se como mais mas meu minha eu você é são "
    "fazer posso ao sem sobre isso este esta quero seu sua quando onde qual escreva me alguém muito pelo pela foi "
    "está também porquê",
    "nl": "de het een en van ik is dat niet op te in zijn met voor aan hoe kan wat maar mijn je dit die om als ook "
    "naar heb hebben wordt worden maken maak ben bij zonder geef schrijf iemand moet waarom waar welke uit nog "
    "mij deze jij",
    "pl": "i w na z się nie to jest jak do że co po o za od czy dla mnie przez bez był są mam moje mój można zrobić "
    "napisz kogoś żeby aby ten tego który która gdy gdzie dlaczego mi ja jaki jakie oraz ale tylko proszę chcę",
    "tr": "bir ve bu için ne nasıl ile mi da de ben beni benim çok daha gibi var yok olarak olan kadar ama veya en "
    "sonra bana yapılır yapabilirim yap neden nerede hangi şey değil mı mu mü yaz birini olur nedir istiyorum kim",
    "vi": "là và của có cho không một các những được trong tôi với để người này khi làm thế nào cách như đã thì ở "
    "bạn gì cái từ ra về hãy viết tại sao nhưng cũng nếu hay mà bị",
    "id": "yang dan di ini itu untuk dengan dari tidak saya bagaimana cara apa adalah ke pada akan bisa dalam anda "
    "aku kamu orang seseorang atau juga karena membuat tanpa jika ada sudah buat tulis kenapa mengapa siapa dapat "
    "oleh seperti harus sebuah agar secara",
    "sv": "och att det som en ett på är av för med till den inte jag hur kan om har man vad min mig du från vi skriv "
    "utan vara ska hos eller men någon där när varför vilken detta dem ger gör göra mina mycket",
    "sw": "na ya wa kwa ni za katika la kama jinsi nini hii huo si mimi yangu cha vya gani nataka je ili mtu watu "
    "kutengeneza kufanya yako lakini pia bila kuwa hiyo naweza nawezaje ninawezaje kuhusu sana au vipi",
}  # fmt: skip
_LETTERS = {
    "de": "äöüß", "fr": "çèêàùœâîô", "es": "ñ¿¡óáí", "it": "àèìòù", "pt": "ãõçâêó", "pl": "ąęłńśźżć", "tr": "ğşıçö",
    "vi": "ăâđơưạảấầẩẫậắằẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ", "sv": "åäö",
}  # fmt: skip
_LETTER_WEIGHT = 0.4
_MOST_LETTERS = 5
_MIN_SCORE = 0.9
_MIN_CLUES = 2
_MARGIN = 1.2


def detect(text: str) -> str:
    """Return an ISO 639-1 code; ``"en"`` when nothing speaks for another language.

    Looks at no more than the first 4,000 characters. Deterministic; never raises.
    """
    sample = _outside_quotes(text[:_SAMPLE_CHARACTERS])
    if sample.isascii():
        return _latin(sample)
    scripts = _scripts(sample)
    if not scripts:
        return "en"
    kana = scripts.pop("kana", 0)
    scripts["han"] += kana
    script = max(scripts, key=lambda name: scripts[name])
    if script == "han":
        return "ja" if kana > _KANA_SHARE * scripts["han"] else "zh"
    if script == "cyrillic":
        return _cyrillic(sample)
    if script == "arabic":
        return _arabic(sample)
    return _latin(sample) if script == "latin" else script


def _outside_quotes(sample: str) -> str:
    """Leave out what is quoted, often for translation, unless hardly anything else is there."""
    rest = _QUOTED.sub(" ", sample)
    return rest if len(_WORD.findall(rest)) >= _MIN_WORDS_OUTSIDE else sample


def _scripts(sample: str) -> Counter[str]:
    """Weigh the scripts of a text."""
    counts: Counter[str] = Counter()
    for character, times in Counter(filter(str.isalpha, sample)).items():
        code = ord(character)
        name = next((name for first, last, name in _SCRIPTS if first <= code <= last), None)
        if name is not None:
            counts[name] += times * (_SYLLABIC_WEIGHT if name in _SYLLABIC else 1)
    return counts


def _cyrillic(sample: str) -> str:
    if len(_SERBIAN.findall(sample)) > 1:
        return "sr"
    return "uk" if len(_UKRAINIAN.findall(sample)) > len(_RUSSIAN_ONLY.findall(sample)) else "ru"


def _arabic(sample: str) -> str:
    if _URDU.search(sample):
        return "ur"
    return "fa" if _PERSIAN.search(sample) else "ar"


@cache
def _weights() -> dict[str, dict[str, float]]:
    """What each word says for each language: the less, the more languages share it."""
    shared = Counter(word for words in _STOP_WORDS.values() for word in set(words.split()))
    return {code: {word: 1 / shared[word] for word in words.split()} for code, words in _STOP_WORDS.items()}


def _latin(sample: str) -> str:
    lower = sample.lower()
    words = _WORD.findall(lower)
    letters = Counter(lower)
    scores = {
        code: sum(weights.get(word, 0.0) for word in words)
        + _LETTER_WEIGHT * min(_MOST_LETTERS, sum(letters[letter] for letter in _LETTERS.get(code, "")))
        for code, weights in _weights().items()
    }
    best = max(scores, key=lambda code: scores[code])
    # One odd word in an English sentence ("the las vegas strip") must not change the language of the answer.
    clues = sum(len(word) > 1 for word in _weights()[best].keys() & set(words))
    marked = sum(letters[letter] for letter in _LETTERS.get(best, ""))
    clues += min(marked, 1) + (marked > _MIN_CLUES)
    sure = scores[best] >= _MIN_SCORE and clues >= _MIN_CLUES and scores[best] > _MARGIN * scores["en"]
    return best if sure else "en"
