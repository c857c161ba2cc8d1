"""Principal components of hidden states, and the rest of the space."""

from __future__ import annotations

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError


def principal_components(states: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the first principal components.

    Each component's sign is chosen so that its largest entry is positive: the same data give the same basis.

    Shapes: states (N, d) → mean (d,), components (m, d) with orthonormal rows.

    Raises:
        ConfigError: fewer rows or columns than components.
    """
    if dims > min(len(states) - 1, states.shape[1]):
        raise ConfigError(f"{dims} dimensions need more than {len(states)} states of width {states.shape[1]}")
    mean = states.mean(0)
    components = torch.linalg.svd(states - mean, full_matrices=False).Vh[:dims]  # (m, d)
    largest = components.abs().argmax(1, keepdim=True)
    return mean, components * components.gather(1, largest).sign()


def complete_basis(components: Tensor) -> Tensor:
    """Return an orthonormal basis of the whole space that begins with the components.

    Shapes: components (m, d) → (d, d), rows orthonormal, the first m unchanged.

    Training does not need it: the length of a vector in the other d - m coordinates is the length of what is left
    when its part in the components is taken away (see ``objective.utility_loss``).
    """
    dims, width = components.shape
    spanning = torch.cat([components, torch.eye(width, dtype=components.dtype)])  # (m + d, d)
    basis = torch.linalg.qr(spanning.T).Q.T  # (d, d); QR is Gram-Schmidt, kept stable
    return torch.cat([components, basis[dims:]])
