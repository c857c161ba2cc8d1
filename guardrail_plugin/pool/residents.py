"""Which models live on which device, and which must leave when memory is short. Pure: its owner holds a lock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Resident:
    """A model on a device: its slots share one copy of the weights there, so its bytes count once."""

    nbytes: int
    slots: set[int] = field(default_factory=set)


class Residents:
    """Models by device, least recently used first.

    Args:
        max_bytes: for the models of one device; ``None``: no bound. One model is always let in.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._devices: dict[str, OrderedDict[str, _Resident]] = {}

    def came(self, device: str, model: str, *, slot: int, nbytes: int) -> list[str]:
        """Note a replica; return the models that must leave the device for it, least recently used first."""
        models = self._devices.setdefault(device, OrderedDict())
        resident = models.setdefault(model, _Resident(nbytes))
        resident.nbytes = nbytes
        resident.slots.add(slot)
        models.move_to_end(model)
        leaving: list[str] = []
        left = sum(other.nbytes for other in models.values())
        for name, other in models.items():
            if self._max_bytes is None or left <= self._max_bytes or name == model:
                break
            leaving.append(name)
            left -= other.nbytes
        return leaving

    def used(self, device: str, model: str) -> None:
        """Note that a model was needed."""
        models = self._devices.get(device)
        if models is not None and model in models:
            models.move_to_end(model)

    def left(self, device: str, model: str, *, slot: int) -> None:
        """Note that a slot has closed its replica."""
        models = self._devices.get(device, OrderedDict())
        resident = models.get(model)
        if resident is not None:
            resident.slots.discard(slot)
            if not resident.slots:
                del models[model]

    def others(self, device: str, model: str) -> list[str]:
        """Return every other model on a device."""
        return [name for name in self._devices.get(device, ()) if name != model]

    def slots(self, device: str, model: str) -> frozenset[int]:
        """Return the slots with a replica of a model on a device."""
        resident = self._devices.get(device, OrderedDict()).get(model)
        return frozenset() if resident is None else frozenset(resident.slots)

    def bytes_on(self, device: str) -> int:
        """Return what the models of a device take."""
        return sum(resident.nbytes for resident in self._devices.get(device, OrderedDict()).values())
