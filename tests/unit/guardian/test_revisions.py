"""A guardian of the hub, pinned: what is fetched, what it is called then, and where a revision makes no sense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from guardrail_plugin.assembly import family, loading
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.models import chat
from guardrail_plugin.models.chat import ChatSource
from guardrail_plugin.models.locate import Located
from guardrail_plugin.pool import InferencePool

COMMIT = "ab" * 20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> list[tuple[str, str | None]]:
    """A hub on which every repository holds the tiny model; what was asked of it."""
    asked: list[tuple[str, str | None]] = []

    def locate(model: str, *, revision: str | None = None, **options: Any) -> Located:
        asked.append((model, revision))
        return Located(model, tiny_base, "hub", revision)

    for room in (loading, family, chat):
        monkeypatch.setattr(room, "locate", locate)
    return asked


def load(model: str | Path | None = "some/guard", **settings: Any) -> Guardian:
    with InferencePool() as pool:
        return Guardian.load(model, pool=pool, family="policy", policy_text="No tea.", self_test=False, **settings)


def test_the_revision_is_fetched_and_part_of_what_it_is_called(hub: list[tuple[str, str | None]]) -> None:
    moving, pinned, again = load(), load(revision=COMMIT), load(revision=COMMIT)
    assert hub == [("some/guard", None), ("some/guard", COMMIT), ("some/guard", COMMIT)]
    assert COMMIT in pinned.id
    assert COMMIT in pinned._model_key
    assert pinned.id == again.id != moving.id


def test_the_tokenizers_revision_is_its_own(hub: list[tuple[str, str | None]]) -> None:
    load(revision="v1", base="some/base", base_revision="v2")
    assert hub == [("some/guard", "v1"), ("some/base", "v2")]


def test_another_tokenizer_or_template_is_another_guardian(tiny_base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_base, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "chat_template.jinja").unlink(missing_ok=True)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    assert load(tiny_base, base=tiny_base).id != load(tiny_base, base=other).id


def test_a_chat_models_revision_is_in_its_key(hub: list[tuple[str, str | None]]) -> None:
    assert ChatSource.find("some/chat", revision="v1").key == "chat:some/chat@v1"
    assert ChatSource.find("some/chat").key == "chat:some/chat"
    assert hub == [("some/chat", "v1"), ("some/chat", None)]


def test_a_file_can_pin(hub: list[tuple[str, str | None]], tmp_path: Path) -> None:
    file = tmp_path / "guardian.toml"
    file.write_text(
        'model = "some/guard"\nrevision = "v1"\nbase = "some/base"\nbase_revision = "v2"\n'
        'family = "policy"\npolicy_text = "No tea."\nself_test = false\n'
    )
    with InferencePool() as pool:
        Guardian.from_toml(file, pool=pool)
        with pytest.raises(ConfigError, match="write revision = 'v3' into"):
            Guardian.named(file, pool=pool, revision="v3")
    assert hub == [("some/guard", "v1"), ("some/base", "v2")]


@pytest.mark.parametrize(
    ("model", "settings", "why"),
    [
        (None, {"revision": "v1"}, "the embedded guardian comes with us"),
        ("TINY", {"revision": "v1"}, "is on this machine"),
        ("TINY", {"base_revision": "v1"}, "name one"),
        ("TINY", {"base": "TINY", "base_revision": "v1"}, "is on this machine"),
        ("openai:http://127.0.0.1:9/v1#m", {"revision": "v1"}, "a server chooses its own weights"),
        ("openai:http://127.0.0.1:9/v1#m", {"base": "TINY", "base_revision": "v1"}, "is on this machine"),
        ("guardrail@openai:http://127.0.0.1:9/v1#m", {"base": "TINY", "base_revision": "v1"}, "base= is a folder here"),
    ],
)
def test_a_revision_of_what_is_no_repository_is_refused(
    model: str | None, settings: dict[str, str], why: str, tiny_base: Path
) -> None:
    placed = {key: str(tiny_base) if value == "TINY" else value for key, value in settings.items()}
    with InferencePool() as pool, pytest.raises(ConfigError, match=why):
        Guardian.load(str(tiny_base) if model == "TINY" else model, pool=pool, **placed)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["llama-gaurd-3@some/guard", "some/guard"])
def test_a_misspelt_family_is_told_before_anything_is_fetched(hub: list[tuple[str, str | None]], model: str) -> None:
    family = None if "@" in model else "llama-gaurd-3"
    with InferencePool() as pool, pytest.raises(ConfigError, match="did you mean 'llama-guard-3'"):
        Guardian.load(model, pool=pool, family=family)
    assert hub == []
