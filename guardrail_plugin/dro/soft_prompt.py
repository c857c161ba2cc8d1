"""The trained soft prompt as a file: safetensors, with all that is needed to know what it is and where it belongs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.dro.identity import ModelIdentity, require_same
from guardrail_plugin.dro.writing import writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TENSOR_KEY = "soft_prompt"  # also the key in the files that the paper's authors released
_METADATA_KEY = "guardrail_soft_prompt"
_PEFT_KEY = "prompt_embeddings"
_PEFT_FILE = "adapter_model.safetensors"

Method = Literal["dro", "vanilla", "text", "imported"]


class SoftPromptInfo(BaseModel):
    """What a soft prompt's header says.

    Attributes:
        method: trained by DRO, by vanilla prompt tuning, a text's own embeddings, or brought in from elsewhere.
        initial_text: the text whose embeddings it began as.
        config: the settings it was trained with.
        metrics: figures at the end of training.
        history: per step, the loss and its terms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    base_model: str | None = None
    revision: str | None = None
    tokenizer_sha256: str | None = None
    method: Method = "imported"
    initial_text: str | None = None
    seed: int | None = None
    config: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()

    @property
    def identity(self) -> ModelIdentity:
        """The model that it belongs to."""
        return ModelIdentity(self.width, self.base_model, self.revision, self.tokenizer_sha256)


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """A soft prompt of L vectors. ``repr`` shows its size.

    Attributes:
        vectors: (L, d), in the space of the base model's input embeddings; float32 when trained here.
        info: where it comes from and belongs to.
    """

    vectors: Tensor = field(repr=False)
    info: SoftPromptInfo

    def __post_init__(self) -> None:
        if self.vectors.dim() != 2 or self.vectors.shape[1] != self.info.width or not len(self.vectors):
            raise ConfigError(f"a soft prompt is (L, {self.info.width}), got {tuple(self.vectors.shape)}")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def digest(self) -> str:
        """Eight hex digits that stand for the vectors."""
        return hashlib.sha256(self.vectors.detach().float().cpu().numpy().tobytes()).hexdigest()[:8]

    def require(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, base_model: str | None = None
    ) -> None:
        """Make sure that this soft prompt belongs to a model. What one side does not know is not compared.

        Raises:
            SoftPromptMismatch: width, name, revision or tokenizer differ.
        """
        require_same(self.info.identity, ModelIdentity.of(model, tokenizer, base_model=base_model))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. The same soft prompt gives the same bytes.

        Raises:
            ConfigError: it cannot be written.
        """
        metadata = {_METADATA_KEY: self.info.model_dump_json()}
        with writing(path):
            save_file({_TENSOR_KEY: self.vectors.detach().cpu().contiguous()}, path, metadata)

    @classmethod
    def load(cls, path: str | Path, *, base_model: str | None = None) -> SoftPrompt:
        """Read a soft prompt.

        Args:
            path: a file written by ``save``, or one that the paper's authors released.
            base_model: hub id of the model; needed for a file that does not name one.

        Raises:
            ConfigError: there is no such file, it is no soft prompt, or nobody says which model it belongs to.
        """
        metadata, vectors = _read(Path(path))
        if _METADATA_KEY in metadata:
            try:
                info = SoftPromptInfo.model_validate_json(metadata[_METADATA_KEY])
            except ValidationError:
                raise ConfigError(f"the header of {path} is not one of a soft prompt") from None
        elif base_model is None:
            raise ConfigError(f"{path} does not say which model it belongs to; name it with base_model=...")
        else:
            info = SoftPromptInfo(width=int(vectors.shape[-1]), base_model=base_model)
        return cls(vectors, info)

    def to_peft(self, folder: str | Path) -> None:
        """Write a PEFT prompt-tuning adapter.

        PEFT puts its vectors before everything, beginning-of-text and template included; this library puts them where
        the system message stands. The vectors are the same, the model's answers are not quite.

        Raises:
            MissingDependencyError: peft is not installed.
        """
        config = _peft_config_class()(
            task_type="CAUSAL_LM",
            num_virtual_tokens=len(self.vectors),
            token_dim=self.info.width,
            base_model_name_or_path=self.info.base_model,
            inference_mode=True,
        )
        config.save_pretrained(str(folder))
        save_file(
            {_PEFT_KEY: self.vectors.detach().cpu().contiguous()},
            Path(folder) / _PEFT_FILE,
            {"format": "pt", _METADATA_KEY: self.info.model_dump_json()},
        )

    @classmethod
    def from_peft(cls, folder: str | Path, *, base_model: str | None = None) -> SoftPrompt:
        """Read a PEFT prompt-tuning adapter.

        Raises:
            ConfigError: the folder holds none, or neither it nor the caller names the base model.
            MissingDependencyError: peft is not installed.
        """
        config = _peft_config_class().from_pretrained(str(folder))
        file = Path(folder) / _PEFT_FILE
        tensors = load_file(file) if file.is_file() else {}
        if config.peft_type != "PROMPT_TUNING" or _PEFT_KEY not in tensors:
            raise ConfigError(f"{folder} holds no prompt-tuning adapter")
        vectors = tensors[_PEFT_KEY]
        with safe_open(file, "pt") as header:
            written = (header.metadata() or {}).get(_METADATA_KEY)
        if written is not None:
            return cls(vectors, SoftPromptInfo.model_validate_json(written))
        name = base_model or config.base_model_name_or_path
        if not name:
            raise ConfigError(f"{folder} does not say which model it belongs to; name it with base_model=...")
        return cls(vectors, SoftPromptInfo(width=int(vectors.shape[-1]), base_model=name))


def _read(path: Path) -> tuple[dict[str, str], Tensor]:
    try:
        with safe_open(path, "pt") as file:
            if _TENSOR_KEY not in file.keys():  # noqa: SIM118 - not a mapping
                raise ConfigError(f"{path} holds no tensor {_TENSOR_KEY!r}")
            vectors: Tensor = file.get_tensor(_TENSOR_KEY)
            metadata: dict[str, str] = file.metadata() or {}
            return metadata, vectors
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, json.JSONDecodeError):
        raise ConfigError(f"{path} is not a safetensors file") from None


def _peft_config_class() -> Any:
    try:
        from peft import PromptTuningConfig
    except ImportError:
        raise MissingDependencyError("peft", extra="local") from None
    return PromptTuningConfig


@torch.no_grad()
def text_prompt(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return a text's own embeddings in float32: where training begins. Shapes: L ids → (L, d).

    Raises:
        ConfigError: the text is empty.
    """
    if not ids:
        raise ConfigError("a soft prompt begins as a text of at least one token")
    table = model.get_input_embeddings()
    device = next(table.parameters()).device
    vectors: Tensor = table(torch.tensor(ids, device=device)).float()  # (L, d)
    return vectors
