"""The training loop: deterministic, resumable, one progress bar."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.format import Layout
from guardrail_plugin.guardian.manifest import Manifest
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.models.load import load_causal_lm, model_folder
from guardrail_plugin.models.locate import Located, locate
from guardrail_plugin.training.artefact import save_artefact
from guardrail_plugin.training.config import TrainConfig
from guardrail_plugin.training.encode import Encoded, batches, encode
from guardrail_plugin.training.loss import detection_loss, response_loss, total_loss
from guardrail_plugin.training.mix import Pools, data_fingerprint, epoch_examples, read_pools
from guardrail_plugin.training.network import GuardianNetwork
from guardrail_plugin.training.validation import Validation, validate
from guardrail_plugin.training.widen import load_start
from guardrail_plugin.training.world import join_world, own_device

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.jsonl"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the artefact is and what validation said of it."""

    folder: Path
    steps: int
    seconds: float
    validation: Validation


def train(
    config: TrainConfig,
    *,
    data_folders: Sequence[Path],
    out: Path,
    device: str | None = None,
    start: Path | None = None,
    checkpoint_every_s: float = 300.0,
    max_steps: int | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train a guardian and write its artefact to ``out``. A checkpoint of this very run in ``out`` is resumed.

    Same config, data and number of processes give the same artefact on CPU: rows, order and initial values come from
    the seed. Under ``torchrun`` every process takes its share of the batches and gradients are averaged; on a CPU that
    other work shares, two processes of one thread beat one of two, which waits at every barrier.

    Args:
        start: folder of the guardian to go on from, where the recipe says ``start_from``.

    Raises:
        ConfigError: a source is missing or malformed, or the recipe's first stage is not there.
        ModelNotFoundError: the base is nowhere.
    """
    started = time.monotonic()
    device = device or own_device()
    rank, world = join_world(device)
    quiet = quiet or rank > 0
    run = _Run.prepare(config, data_folders, device=device, quiet=quiet)
    run.rank, run.world = rank, world
    run.start_from(start)
    out.mkdir(parents=True, exist_ok=True)
    planned = run.total_steps()
    total = min(planned, max_steps or planned)
    run.identify(total)
    done = run.resume(out / CHECKPOINT_FILE)
    saved_at = time.monotonic()
    with tqdm(total=total, initial=done, desc="Training", disable=quiet or None, unit="step") as bar:
        for step, batch in run.steps(done, total):
            losses = run.step(batch, step, total)
            bar.update()
            if step % 20 == 0 and rank == 0:
                bar.set_postfix(detection=f"{losses[0]:.3f}", response=f"{losses[1]:.3f}")
                _log_line(out, {"step": step, "detection": losses[0], "response": losses[1]})
            if rank == 0 and time.monotonic() - saved_at > checkpoint_every_s:
                run.checkpoint(out / CHECKPOINT_FILE, step + 1)
                saved_at = time.monotonic()
    run.average_with_start()
    with run.precision():
        held = run.pools.validation
        began = None if start is None else Manifest.read(start).calibration
        validation = validate(run.network, run.encode_all(held), held, config=config, began=began)
    if rank == 0:
        save_artefact(
            out,
            network=run.network,
            config=config,
            located=run.located,
            tokenizer=run.tokenizer,
            validation=validation,
            data=run.data,
            stopped_at=total if total < planned else None,
        )
        (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    if world > 1:
        torch.distributed.barrier()  # a second stage reads in every process what the first has written in one
    return TrainResult(out, total, time.monotonic() - started, validation)


@dataclass
class _Run:
    """State of one run. Not for reuse."""

    config: TrainConfig
    located: Located
    tokenizer: FastContentTokenizer
    layout: Layout
    network: GuardianNetwork
    pools: Pools
    optimiser: torch.optim.AdamW
    rank: int = 0
    world: int = 1
    per_epoch: int = 0
    rows_per_batch: float = 1.0
    began: dict[str, torch.Tensor] = field(default_factory=dict)
    data: str = ""
    identity: str = ""

    @classmethod
    def prepare(cls, config: TrainConfig, data_folders: Sequence[Path], *, device: str, quiet: bool) -> _Run:
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        located = locate(config.base, revision=config.base_revision)
        folder = model_folder(located, quiet=quiet)
        tokenizer = FastContentTokenizer(folder / "tokenizer.json")
        base = load_causal_lm(folder, device=device, dtype=getattr(torch, config.precision))
        if device == "cpu" and config.precision == "bfloat16":
            base.set_attn_implementation("eager")  # the fused kernel's backward pass took a fifth of a step there
        end = base.generation_config.eos_token_id
        layout = Layout(
            vocab_size=base.get_input_embeddings().num_embeddings, end_id=end[0] if isinstance(end, list) else int(end)
        )
        network = GuardianNetwork(base, layout, tokenizer, config=config).to(device)
        optimiser = torch.optim.AdamW(network.parameter_groups(config), betas=(0.9, 0.98))
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
        return cls(config, located, tokenizer, layout, network, read_pools(config, data_folders), optimiser)

    def encode_all(self, examples: Sequence[Any], *, epoch: int = 0) -> list[Encoded]:
        rng = random.Random(f"encode:{self.config.seed}:{epoch}")
        return [encode(e, self.layout, self.tokenizer, config=self.config, rng=rng) for e in examples]

    def epoch(self, number: int) -> list[list[Encoded]]:
        rows = self.encode_all(epoch_examples(self.config, self.pools, number), epoch=number)
        rng = random.Random(f"order:{self.config.seed}:{number}")
        return batches(rows, batch_tokens=self.config.batch_tokens, rng=rng)

    def start_from(self, folder: Path | None) -> None:
        """Load the adapter of an earlier stage, of this rank or a smaller one.

        Raises:
            ConfigError: the recipe names an earlier stage and no folder is given, or the other way round.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        if (folder is None) != (self.config.start_from is None):
            wanted = self.config.start_from
            raise ConfigError(f"the recipe goes on from {wanted!r}: give the folder of that guardian as start")
        if folder is None and self.config.average_start:
            raise ConfigError("average_start is a share of weights that a run goes on from: name them in start_from")
        if folder is not None:
            config = self.config
            _refuse_seen(folder, config.validation_fraction)
            fresh = get_peft_model_state_dict(self.network.peft, save_embedding_layers=False)
            self.began = load_start(folder, fresh, rank=config.lora_rank, alpha=config.lora_alpha)
            set_peft_model_state_dict(self.network.peft, self.began)

    def average_with_start(self) -> None:
        """Mix the weights that the run began with into those it ended with, factor by factor.

        The mean of A and that of B are not the factors of the mean of BA. They differ from those by share (1 - share)
        times the product of both changes alone, since the run began with these very factors.

        Source: WiSE-FT, arXiv 2109.01903, which averages whole weights.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        share = self.config.average_start
        if not self.began or share == 0:
            return
        ended = get_peft_model_state_dict(self.network.peft, save_embedding_layers=False)
        mean = {name: torch.lerp(one.float(), self.began[name].to(one.device), share) for name, one in ended.items()}
        set_peft_model_state_dict(self.network.peft, mean)

    def total_steps(self) -> int:
        first = self.epoch(0)
        self.per_epoch = len(first) // self.world
        self.rows_per_batch = sum(map(len, first)) / max(1, len(first))
        if self.per_epoch == 0:
            raise ConfigError("there is nothing to train on: no source of this configuration has a usable row")
        return max(1, round(self.per_epoch * self.config.epochs))

    def steps(self, done: int, total: int) -> Iterator[tuple[int, list[Encoded]]]:
        """Yield (step, batch) from ``done`` on. No epoch is longer than the first; the next one follows a shorter one.

        Epochs that are done are drawn again, too: how many steps they took is known from their batches alone.
        """
        step, number = 0, 0
        while step < total:
            order = self.epoch(number)[self.rank :: self.world][: self.per_epoch]
            for batch in order:
                if step >= total:
                    return
                if step >= done:
                    yield step, batch
                step += 1
            number += 1

    def step(self, batch: list[Encoded], step: int, total: int) -> tuple[float, float]:
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout, should there be any, is a function of the step
        scale = _schedule(step, total, config.warmup_fraction)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * scale
        self.network.train()
        with self.precision():
            label_logits, labels, response_logits, targets = self.network(batch)
        label_logits, response_logits = label_logits.float(), response_logits.float()
        detection = detection_loss(label_logits, labels, smoothing=config.label_smoothing)
        if config.task == "response":
            detection = detection * 0.0
        response = response_loss(response_logits, targets)
        detection = detection * (len(batch) / self.rows_per_batch) ** config.row_weight_power
        weight = 1.0 if config.task == "response" else config.lambda_response
        total_loss(detection, response, lambda_response=weight).backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(detection.detach()), float(response.detach())

    def precision(self) -> AbstractContextManager[None]:
        """Return the context in which the network runs."""
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.network.label_ids.device.type, dtype=torch.bfloat16)

    def _average_gradients(self) -> None:
        """Mean over processes, as one flat message: thousands of small tensors would pay for latency."""
        if self.world == 1:
            return
        gradients = [p.grad for _, p in self._trained() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def checkpoint(self, path: Path, step: int) -> None:
        """Write trained tensors and optimiser moments: safetensors, moved into place at the end."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._trained():
            tensors[f"p.{name}"] = parameter.detach().cpu()
            state = self.optimiser.state.get(parameter, {})
            tensors |= {f"{key}.{name}": state[key].cpu() for key in ("exp_avg", "exp_avg_sq", "step") if key in state}
        part = path.with_suffix(".part")
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, {"step": str(step), "run": self.identity})
        part.replace(path)

    def resume(self, path: Path) -> int:
        """Load a checkpoint of this very run, if there is one; return the step to go on from."""
        if not path.is_file():
            return 0
        from safetensors import safe_open

        with safe_open(path, "pt") as header:
            metadata = header.metadata()
        if (metadata or {}).get("run") != self.identity:
            if self.rank == 0:
                _log.warning(
                    "%s is ignored: it belongs to a run of another recipe, data, start, number of processes or steps",
                    path,
                )
            return 0
        tensors = load_file(path)
        for name, parameter in self._trained():
            parameter.data.copy_(tensors[f"p.{name}"])
            keys = [key for key in ("exp_avg", "exp_avg_sq", "step") if f"{key}.{name}" in tensors]
            if keys:
                self.optimiser.state[parameter] = {
                    k: tensors[f"{k}.{name}"].to("cpu" if k == "step" else parameter.device) for k in keys
                }
        return int(metadata["step"])

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]

    def identify(self, total: int) -> None:
        """Note what decides this run, so that no checkpoint of another one is resumed."""
        self.data = data_fingerprint(self.config, self.pools)  # at the start: the corpus may be edited meanwhile
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        digest.update(json.dumps([self.data, self.world, total]).encode())
        for name, tensor in sorted(self.began.items()):
            digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()


def _refuse_seen(folder: Path, fraction: float) -> None:
    """Refuse to hold out more than the start did: of the same files that would be rows which it was trained on.

    Raises:
        ConfigError: it held out less.
    """
    held = Manifest.read(folder).training.get("validation_fraction")
    if isinstance(held, int | float) and held < fraction:
        raise ConfigError(
            f"{folder} was trained with validation_fraction = {held}, so some of the {fraction} that this recipe holds "
            f"out are rows that it has learnt from: set {held} or less"
        )


def _schedule(step: int, total: int, warmup_fraction: float) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak."""
    warm = max(1, round(total * warmup_fraction))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    return float(0.1 + 0.9 * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi))))


def _log_line(out: Path, record: dict[str, Any]) -> None:
    with (out / HISTORY_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
