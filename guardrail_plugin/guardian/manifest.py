"""``guardian.json``: what a guardian's weights are, how to talk to them, and how far to trust their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.core.hazards import Hazard, Taxonomy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.format import Layout

MANIFEST_FILE = "guardian.json"
ADAPTER_FILE = "adapter_model.safetensors"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(_Strict):
    """How one rail's raw risk becomes a probability, and where it acts.

    Attributes:
        temperature: divides the log-odds of the risk (Guo et al. 2017, arXiv 1706.04599).
        bias: added to the log-odds after the temperature (Platt scaling's intercept).
        threshold: calibrated risk at which a verdict is harmful.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    bias: float = 0.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class HazardEntry(_Strict):
    """One hazard of the artefact's taxonomy."""

    code: str
    name: str
    definition: str


class Manifest(_Strict):
    """Everything about a guardian artefact except its tensors.

    Attributes:
        name: what verdicts carry as ``guardian_id``.
        base_model, base_revision: the base whose weights the adapter changes.
        tokenizer_sha256: of the base's vocabulary; another vocabulary is an error at load.
        vocab_size: rows of the base's embedding in front of the added tokens.
        token_names: names of the added tokens, in row order; must be what ``Layout`` derives.
        calibration: per rail.
        training: the frozen training configuration.
        metrics: figures measured at the end of training, with what they were measured on.
        sources: training files with their licences.
    """

    format_version: Annotated[int, Field(ge=1, le=1)] = 1
    name: str
    base_model: str
    base_revision: str | None = None
    tokenizer_sha256: str
    vocab_size: int
    end_id: int
    token_names: tuple[str, ...]
    taxonomy: tuple[HazardEntry, ...]
    window_tokens: int = 384
    overlap_tokens: int = 64
    context_tokens: int = 128
    calibration: dict[Rail, Calibration] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    sources: tuple[dict[str, str], ...] = ()

    @property
    def layout(self) -> Layout:
        """The token layout that the weights were trained on."""
        return Layout(
            vocab_size=self.vocab_size,
            end_id=self.end_id,
            taxonomy=Taxonomy.of(Hazard(h.code, h.name, h.definition) for h in self.taxonomy),
            window_tokens=self.window_tokens,
            overlap_tokens=self.overlap_tokens,
            context_tokens=self.context_tokens,
        )

    def write(self, folder: Path) -> None:
        """Write ``guardian.json`` into a folder."""
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check a folder's ``guardian.json``.

        Raises:
            ModelNotFoundError: the folder has none.
            ConfigError: it is not valid, or its tokens are not the ones that this version lays out.
        """
        path = folder / MANIFEST_FILE
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError:
            raise ModelNotFoundError(f"{folder} holds no {MANIFEST_FILE}: not a guardian's folder") from None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if found.layout.token_names != found.token_names:
            raise ConfigError(f"{path}: written for another token layout: {found.token_names}")
        return found
