"""What is known about one slot, a place on a device where one thread runs replicas. Guarded by the pool's lock."""

from __future__ import annotations

from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.health import Circuit, TokenBudget
from guardrail_plugin.pool.lane import Item, Kind, Room
from guardrail_plugin.pool.scheduler import Turns
from guardrail_plugin.pool.stats import SlotPhase, SlotStats


class Slot:
    """One slot's state. Keyed by model where replicas differ: their memory needs and their health do.

    Attributes:
        index: position in the pool.
        device: where its replicas live.
        phase: what its thread does now.
        barren_deaths: threads in a row that died before they finished a turn.
        unwanted: models whose replicas should be closed here: others need the memory.
    """

    def __init__(
        self,
        *,
        index: int,
        device: str,
        limits: Limits,
        max_score_streak: int,
        max_decodes: int,
        measures: bool = False,
    ) -> None:
        self.index = index
        self.device = device
        self.phase: SlotPhase = "idle"
        self.models: tuple[str, ...] = ()
        self.restarts = 0
        self.barren_deaths = 0
        self.unwanted: set[str] = set()
        self.turns = Turns(max_score_streak)
        self._limits = limits
        self._max_decodes = max_decodes
        self._measures = measures
        self._budgets: dict[tuple[str, Kind], TokenBudget] = {}
        self._circuits: dict[str, Circuit] = {}
        self._decodes: tuple[Room, ...] = ()

    def twin(self, *, index: int, device: str) -> Slot:
        """Return a new slot with the same settings."""
        return Slot(
            index=index,
            device=device,
            limits=self._limits,
            max_score_streak=self.turns.max_streak,
            max_decodes=self._max_decodes,
            measures=self._measures,
        )

    @property
    def decoding(self) -> bool:
        """Whether a decode is in progress."""
        return bool(self._decodes)

    def set_decodes(self, decodes: tuple[Room, ...]) -> None:
        """Note the live rows and padded tokens of each decode in progress."""
        self._decodes = decodes

    def budget(self, model: str, kind: Kind = "score") -> TokenBudget:
        """Return the model's memory budget here."""
        most = self._limits.max_batch_tokens if kind == "score" else self._limits.max_decode_tokens
        return self._budgets.setdefault((model, kind), TokenBudget(most))

    def measured(self, model: str, batch_tokens: int) -> None:
        """Take over what a replica found to be its best batch, where the caller has set no size."""
        budget = self.budget(model)
        if batch_tokens > 0 and self._measures and budget.tokens == budget.most == self._limits.max_batch_tokens:
            self._budgets[model, "score"] = TokenBudget(batch_tokens)

    def circuit(self, model: str) -> Circuit:
        """Return the model's circuit here."""
        return self._circuits.setdefault(model, Circuit())

    def broken(self, now: float) -> frozenset[str]:
        """Return the models that this slot does not try now."""
        return frozenset(model for model, circuit in self._circuits.items() if circuit.is_open(now))

    def mends_at(self, now: float) -> float | None:
        """Return when the next broken model may be tried again."""
        ends = [circuit.open_until for circuit in self._circuits.values() if circuit.is_open(now)]
        return min((end for end in ends if end is not None), default=None)

    def room(self, anchor: Item) -> Room | None:
        """Return what a batch around this item may hold, or ``None`` if it has to wait for running decodes to end."""
        tokens = self.budget(anchor.model, anchor.kind).tokens
        if anchor.kind == "score" or not self._decodes:
            return Room(self._limits.max_batch, tokens)
        rows = self._limits.max_batch - sum(decode.rows for decode in self._decodes)
        tokens -= sum(decode.tokens for decode in self._decodes)
        if len(self._decodes) >= self._max_decodes or rows < 1 or tokens < anchor.tokens:
            return None
        return Room(rows, tokens)

    def stats(self, now: float) -> SlotStats:
        """Return a snapshot."""
        return SlotStats(
            device=self.device,
            phase=self.phase,
            models=self.models,
            broken=tuple(sorted(self.broken(now))),
            decoding_rows=sum(decode.rows for decode in self._decodes),
            budget_tokens=self._cut_budgets(),
            restarts=self.restarts,
        )

    def _cut_budgets(self) -> tuple[tuple[str, int], ...]:
        cut: dict[str, int] = {}
        for (model, _), budget in self._budgets.items():
            if budget.tokens < budget.most:
                cut[model] = min(budget.tokens, cut.get(model, budget.tokens))
        return tuple(sorted(cut.items()))
