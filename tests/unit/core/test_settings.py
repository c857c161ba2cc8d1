"""Files of settings: what is wrong with one is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.settings import read_toml

WRONG = {
    "half a table": b"[rails",
    "another encoding": b'name = "caf\xe9"',
    "nested without end": b"x = " + b"[" * 100_000,
}


@pytest.mark.parametrize("content", list(WRONG.values()), ids=list(WRONG))
def test_what_is_no_toml_is_a_config_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML"):
        read_toml(file, what="recipe")


def test_a_missing_file_is_told_by_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none\.toml: No such file"):
        read_toml(tmp_path / "none.toml", what="recipe")


def test_a_byte_order_mark_is_no_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfthreshold = 0.3\n")
    assert read_toml(tmp_path / "mine.toml", what="policy file") == {"threshold": 0.3}
