"""Where guardians come from: weights, servers, files that describe them, and other guardians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.guardian.responding import Responses

if TYPE_CHECKING:
    from guardrail_plugin.guardian.cascade import CascadeGuardian
    from guardrail_plugin.guardian.ensemble import Combine, EnsembleGuardian
    from guardrail_plugin.guardian.guardian import Guardian
    from guardrail_plugin.pool import InferencePool


class Doors:
    """The ways to have a guardian, as class methods of ``Guardian``."""

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        pool: InferencePool | None = None,
        base: str | Path | None = None,
        base_revision: str | None = None,
        max_windows: int = 64,
        offline: bool = False,
        family: str | None = None,
        hazards: Sequence[str] | None = None,
        policy_text: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        strictness: float | None = None,
        responder: GuardianProtocol | None = None,
        responses: Responses = "model",
        self_test: bool = True,
        warm_up: bool = False,
        dtype: Dtype = "auto",
    ) -> Guardian:
        """Load a guardian: the embedded one, a guard model of any known family, or one behind a server.

        Without ``pool`` the process-wide default pool is used. Weights in the library's own format are read when the
        pool first needs them, which takes seconds of the first check's ``timeout_s``; ``warm_up=True`` reads them now.
        Other families are asked four canary texts at once. Either way the pool must be open and the call takes as long
        as loading does (in async code: ``await asyncio.to_thread(Guardian.load, ...)``).

        Args:
            model: ``None`` (the embedded guardian), a folder that ``guardrail train`` wrote, a guard model's folder or
                hub id, or ``openai:http://HOST/v1#MODEL`` for an OpenAI-compatible server. ``FAMILY@`` may stand in
                front, for command lines and settings (``guardrail@``: the library's own).
            revision: commit, tag or branch of the model's hub repository; a commit is the only one that never moves.
                ``None``: what the cache has, else the newest.
            base: for the library's own format the base model, or the folder of one that a server runs; else where the
                tokenizer is, if not with the model.
            base_revision: the same of ``base``. The library's own format names its base's revision itself.
            offline: never ask the hub.
            family: ``guardrail models`` lists them; ``None``: recognised from the checkpoint.
            hazards: hazard codes to judge; ``None``: all that the family covers.
            policy_text: the written policy of the family ``policy``.
            labels: of a classifier: label name to hazard code, ``"safe"``, or ``None`` for harm without a code.
            strictness: 0..1, how much an answer between safe and unsafe counts (Qwen3Guard).
            responder: writes the safeguard responses, for families that cannot (``Guardian.load(pool=pool)`` can).
            responses: ``"model"``: of the model's own where they pass the checks, else a written one; ``"written"``: at
                once, without a decode.
            self_test: ask the canaries.
            warm_up: judge a word before returning, so that the first request does not wait for the weights.
            dtype: number format of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``; ``"auto"``: bfloat16 on
                CUDA, float32 on a CPU. ``guardrail doctor`` tells whether this CPU is faster with bfloat16.

        Raises:
            ModelNotFoundError: the guardian's or its base's weights are nowhere; the message tells how to get them.
            ConfigError: no family recognises the folder, base and adapter do not fit, a template drops the text or
                the categories, an option has no use (a revision of a folder, say), there is no such ``dtype``, or the
                canaries are all judged alike.
            MissingDependencyError: an extra is missing; the message names it.
            GuardrailError: with ``warm_up``, there was no verdict.
        """
        from guardrail_plugin.assembly import Wanted, load_guardian
        from guardrail_plugin.guardian.families.protocol import FamilyOptions

        options = FamilyOptions(
            hazards=None if hazards is None else tuple(hazards),
            policy_text=policy_text,
            labels=labels,
            strictness=strictness,
        )
        wanted = Wanted(
            model=model,
            revision=revision,
            base=base,
            base_revision=base_revision,
            family=family,
            options=options,
            offline=offline,
            dtype=dtype,
        )
        return load_guardian(
            wanted,
            pool=pool,
            max_windows=max_windows,
            responder=responder,
            responses=responses,
            self_test=self_test,
            warm_up=warm_up,
        )

    @staticmethod
    def from_toml(file: str | Path, *, pool: InferencePool | None = None) -> GuardianProtocol:
        """Load the guardian that a TOML file describes: what commands and services take where a model's name fits.

        Keys are the arguments of ``load`` (``policy_file`` names a written policy), or one of the tables ``ensemble``
        (``members``, ``combine``) and ``cascade`` (``cheap``, ``second``, ``band``, ``on_second_failure``).

        Raises:
            ConfigError: the file cannot be read, is not TOML, has an unknown key or a value out of range.
            ModelNotFoundError, MissingDependencyError: as of ``load``.
        """
        from guardrail_plugin.assembly import load_described

        return load_described(Path(file), pool=pool)

    @classmethod
    def named(
        cls,
        name: str | Path | None,
        *,
        pool: InferencePool | None = None,
        dtype: Dtype = "auto",
        revision: str | None = None,
    ) -> GuardianProtocol:
        """Load a guardian by what a command line or a setting calls it: a model, or a TOML file that describes one.

        Raises:
            ConfigError: ``dtype`` or ``revision`` beside a file, which says it itself. Else as ``load`` and
                ``from_toml``.
        """
        if name is None or Path(name).suffix != ".toml":
            return cls.load(name, pool=pool, dtype=dtype, revision=revision)
        for key, value in (("dtype", None if dtype == "auto" else dtype), ("revision", revision)):
            if value is not None:
                raise ConfigError(f"write {key} = {value!r} into {name}: it may describe several models")
        return cls.from_toml(name, pool=pool)

    @staticmethod
    def ensemble(*members: GuardianProtocol, combine: Combine = "max") -> EnsembleGuardian:
        """Ask several guardians about every text; see ``EnsembleGuardian``."""
        from guardrail_plugin.guardian.ensemble import EnsembleGuardian

        return EnsembleGuardian(members, combine=combine)

    @staticmethod
    def cascade(
        cheap: GuardianProtocol, second: GuardianProtocol, *, band: tuple[float, float] = (0.1, 0.9)
    ) -> CascadeGuardian:
        """Ask a cheap guardian first and a second one where the first is unsure; see ``CascadeGuardian``."""
        from guardrail_plugin.guardian.cascade import CascadeGuardian

        return CascadeGuardian(cheap, second, band=band)
