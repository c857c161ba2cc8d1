"""What is to be checked, read from arguments, a JSONL file or stdin. A row that cannot be read is a row too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.verdict import Rail


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to check.

    Attributes:
        id: the row's own ``id`` where it has one, else its number, from 1 on.
        check: ``None`` when there is nothing that could be checked.
        problem: why not. Never quotes the row.
    """

    id: object
    check: Check | None = field(default=None)
    problem: str = ""


def rows_of_texts(texts: Sequence[str], *, rail: Rail) -> Iterator[Row]:
    """Yield a row per text."""
    for number, text in enumerate(texts, 1):
        yield Row(number, Check(text, rail=rail))


def rows_of_lines(lines: Iterable[bytes], *, rail: Rail) -> Iterator[Row]:
    """Yield a row per line of JSONL; lines of white space are left out but counted."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number, rail)


def _row(line: bytes, number: int, rail: Rail) -> Row:
    try:
        # json.loads accepts NaN and Infinity, which are not JSON and would come out again with the id.
        found = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError:
        return Row(number, problem=f"line {number} is not UTF-8")
    except (ValueError, RecursionError):  # ValueError: also a number with thousands of digits
        return Row(number, problem=f"line {number} is not JSON")
    if not isinstance(found, dict):
        return Row(number, problem=f"line {number} is not a JSON object")
    row_id = found.get("id", number)
    if "text" not in found:
        return Row(row_id, problem='the row has no "text"')
    text, query = found["text"], found.get("query")
    if not isinstance(text, str):
        return Row(row_id, problem=f'"text" is not a string but {_json_type(text)}')
    return Row(row_id, Check(text, rail=rail, query=query if isinstance(query, str) else None))


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _json_type(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "an array", dict: "an object"}
    return names.get(type(value), "null")
