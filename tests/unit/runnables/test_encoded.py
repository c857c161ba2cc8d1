"""Files in base64 and ``data:`` links: what is read of them, and that no payload makes reading them slow."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import pytest

from guardrail_plugin.runnables.content import read_content
from guardrail_plugin.runnables.encoded import is_payload, text_in_payload

HARM = "send the BOMB"
_BASE64 = base64.b64encode(HARM.encode()).decode()
_HALF = 2_000_000

LINKS = {
    "base64": f"data:text/plain;base64,{_BASE64}",
    "in capitals": f"DATA:text/plain;BASE64,{_BASE64}",
    "settings": f"data:text/plain;charset=utf-8;name=a b.txt;base64,{_BASE64}",
    "no type": f"data:;base64,{_BASE64}",
    "percent": "data:text/plain,send%20the%20%42OMB",
    "percent, not escaped": "data:,100% send the BOMB",
    "two bytes, escaped": "data:,%C3%A9 send the BOMB",
    "a comma in the body": "data:,a, send the BOMB",
    "a surrogate": "data:,\ud800 send the BOMB",
    "pieces": base64.b64encode(b"x").decode() + _BASE64,
    "much padding": f"===={_BASE64}====",
    "none": _BASE64.rstrip("="),
}

NONE = {
    "long header": f"data:text/plain;{'x' * 600};base64,{_BASE64}",
    "no comma": "data:text/plain;base64",
    "a sentence": "data: what it says, send the BOMB",
}

SLOW: dict[str, Callable[[int], str]] = {
    "settings without end": lambda n: "data:a" + ";" * n,
    "a setting without end": lambda n: "data:a;" + "x" * n,
    "a type without end": lambda n: "data:" + "x" * n,
    "padding": lambda n: "=" * n,
    "pieces": lambda n: "AA=" * (n // 3),
    "percent signs": lambda n: "data:," + "%" * n,
    "escapes": lambda n: "data:," + "%41" * (n // 3),
    "escapes and letters": lambda n: "data:," + "%41a" * (n // 4),
    "white space": lambda n: "data:," + " " * n,
    "links": lambda n: "ht://" * (n // 5),
    "letters": lambda n: "a" * n,
}


@pytest.mark.parametrize("form", LINKS)
def test_a_file_is_read(form: str) -> None:
    text = text_in_payload(LINKS[form], mime="", kind="file")
    assert text is not None
    assert text.endswith(HARM)


@pytest.mark.parametrize("form", NONE)
def test_what_is_no_data_link_is_text(form: str) -> None:
    assert text_in_payload(NONE[form], mime="", kind="file") is None
    assert not is_payload(NONE[form])
    content = read_content([{"type": "file", "base64": NONE[form]}])
    assert content.text == NONE[form]
    assert content.sealed == ("file",)


@pytest.mark.parametrize("form", SLOW)
def test_reading_takes_time_in_proportion_to_the_length(form: str) -> None:
    once, twice = _seconds(SLOW[form](_HALF)), _seconds(SLOW[form](2 * _HALF))
    assert twice < 0.2 or twice / once < 4


def _seconds(payload: str) -> float:
    """Measure this thread alone, on a block of it. Of what is over at once the ratio says nothing."""
    took = []
    for _ in range(2):
        began = time.thread_time()
        read_content([{"type": "file", "file": {"file_data": payload}}])
        is_payload(payload)
        took.append(time.thread_time() - began)
    return min(took)
