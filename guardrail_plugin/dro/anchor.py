"""The anchor: a few coordinates of the hidden state, and the directions of refusal and harmfulness in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.dro.config import AnchorConfig
from guardrail_plugin.dro.heads import Head
from guardrail_plugin.dro.identity import ModelIdentity, identity_from
from guardrail_plugin.dro.writing import writing

_METADATA_KEY = "guardrail_anchor"
_TENSORS = (
    "mean",
    "components",
    "coordinates",
    "compliance",
    "refusal.weight",
    "refusal.bias",
    "harmfulness.weight",
    "harmfulness.bias",
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A fitted anchor. ``repr`` shows no query.

    Attributes:
        mean: (d,), of all states it was fitted on.
        components: (m, d), orthonormal rows.
        refusal: its logit rises with compliance.
        harmfulness: its logit rises with harmlessness.
        coordinates: (C, Q, m), where each query lies under each condition; condition 0 is no safety prompt.
        compliance: (C, Q), share of sampled responses that did not refuse.
        conditions: safety prompts by name; ``"none"`` is the empty one.
        harmful, harmless: the queries, in the order of Q.
        identity: the model.
        config: how it was fitted.
    """

    mean: Tensor = field(repr=False)
    components: Tensor = field(repr=False)
    refusal: Head
    harmfulness: Head
    coordinates: Tensor = field(repr=False)
    compliance: Tensor = field(repr=False)
    conditions: dict[str, str] = field(repr=False)
    harmful: tuple[str, ...] = field(repr=False)
    harmless: tuple[str, ...] = field(repr=False)
    identity: ModelIdentity
    config: AnchorConfig

    @property
    def queries(self) -> tuple[str, ...]:
        """Harmful queries, then harmless ones: the order of Q."""
        return self.harmful + self.harmless

    @property
    def is_harmless(self) -> Tensor:
        """The labels: (Q,) boolean."""
        return torch.arange(len(self.queries)) >= len(self.harmful)

    def project(self, states: Tensor) -> Tensor:
        """Return the anchor's coordinates of hidden states. Shapes: (..., d) → (..., m)."""
        return (states - self.mean.to(states)) @ self.components.to(states).T

    def report(self) -> dict[str, float | int | str]:
        """Return the figures to look at before training."""
        return {
            "dims": len(self.components),
            "layer": self.config.layer,
            "refusal_accuracy": self.refusal.accuracy,
            "refusal_majority": self.refusal.majority,
            "harmfulness_accuracy": self.harmfulness.accuracy,
            "harmfulness_majority": self.harmfulness.majority,
            "refused_harmful": 1 - float(self.compliance[:, ~self.is_harmless].mean()),
            "refused_harmless": 1 - float(self.compliance[:, self.is_harmless].mean()),
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; what is not a tensor is JSON in its header.

        Raises:
            ConfigError: it cannot be written.
        """
        tensors = {
            "mean": self.mean,
            "components": self.components,
            "coordinates": self.coordinates,
            "compliance": self.compliance,
            "refusal.weight": self.refusal.weight,
            "refusal.bias": self.refusal.bias,
            "harmfulness.weight": self.harmfulness.weight,
            "harmfulness.bias": self.harmfulness.bias,
        }
        described = {
            "conditions": self.conditions,
            "harmful": self.harmful,
            "harmless": self.harmless,
            "identity": self.identity.as_dict(),
            "config": self.config.model_dump(mode="json"),
            "accuracy": {"refusal": self.refusal.accuracy, "harmfulness": self.harmfulness.accuracy},
            "majority": {"refusal": self.refusal.majority, "harmfulness": self.harmfulness.majority},
        }
        metadata = {_METADATA_KEY: json.dumps(described)}
        with writing(path):
            save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Anchor:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: there is no such file, or it is no anchor.
        """
        described, tensors = _read(Path(path))
        heads = {
            name: Head(
                tensors[f"{name}.weight"],
                tensors[f"{name}.bias"],
                described["accuracy"][name],
                described["majority"][name],
            )
            for name in ("refusal", "harmfulness")
        }
        return cls(
            mean=tensors["mean"],
            components=tensors["components"],
            coordinates=tensors["coordinates"],
            compliance=tensors["compliance"],
            conditions=described["conditions"],
            harmful=tuple(described["harmful"]),
            harmless=tuple(described["harmless"]),
            identity=identity_from(described["identity"]),
            config=AnchorConfig(**described["config"]),
            **heads,
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})[_METADATA_KEY])
            return described, {name: file.get_tensor(name) for name in _TENSORS}
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (KeyError, SafetensorError, json.JSONDecodeError):
        raise ConfigError(f"{path} is not an anchor; make one with: guardrail dro fit") from None
