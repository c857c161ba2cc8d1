"""LangChain's standard tests, over local chat models on the pool with and without a soft prompt.

The model is tiny and random, with a template that shows tools, so what is tested is the interface and not the sense.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("langchain_tests")

from langchain_core.language_models import BaseChatModel  # noqa: E402
from langchain_tests.integration_tests import ChatModelIntegrationTests  # noqa: E402
from langchain_tests.unit_tests import ChatModelUnitTests  # noqa: E402

from guardrail_plugin import InferencePool  # noqa: E402
from guardrail_plugin.dro import SoftPrompt, SoftPromptChatModel  # noqa: E402
from guardrail_plugin.dro.soft_prompt import SoftPromptInfo  # noqa: E402
from guardrail_plugin.runnables.chat_model import PoolChatModel  # noqa: E402

TOOL_TEMPLATE = """{% if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}
Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="session")
def tool_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template that shows tools and calls."""
    folder = tmp_path_factory.mktemp("tool-base") / "model"
    shutil.copytree(tiny_base, folder)
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def shared_pool() -> Iterator[InferencePool]:
    """One pool for all of these tests."""
    with InferencePool() as pool:
        yield pool


@pytest.fixture(scope="session")
def soft_prompt() -> SoftPrompt:
    """Five random vectors of the tiny model's width."""
    generator = torch.Generator().manual_seed(0)
    return SoftPrompt(torch.randn(5, 32, generator=generator), SoftPromptInfo(width=32, base_model="tiny/tiny"))


class _Local:
    """What the standard tests are told of a model. Sampled, so that random weights say something."""

    chat_model_class: type[BaseChatModel] = PoolChatModel

    @pytest.fixture(autouse=True)
    def _bring(self, tool_base: Path, shared_pool: InferencePool, soft_prompt: SoftPrompt) -> None:
        self._params: dict[str, Any] = {"model": tool_base, "pool": shared_pool, "temperature": 1.0, "max_tokens": 12}
        if self.chat_model_class is SoftPromptChatModel:
            self._params["soft_prompt"] = soft_prompt

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {name: value for name, value in self._params.items() if name not in ("max_tokens", "temperature")}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        sampled = {"temperature": 1.0, "max_tokens": 12}
        return {**sampled, "timeout": 60, "stop": [], "max_retries": 2}


class TestPoolChatModelUnit(_Local, ChatModelUnitTests):
    """Standard unit tests without a soft prompt."""


class TestSoftPromptChatModelUnit(_Local, ChatModelUnitTests):
    """Standard unit tests with one."""

    chat_model_class = SoftPromptChatModel


class TestSoftPromptChatModelIntegration(_Local, ChatModelIntegrationTests):
    """Standard integration tests; those of sensible tool calls need a model that makes sense."""

    chat_model_class = SoftPromptChatModel
    has_tool_calling = False
    has_structured_output = False
