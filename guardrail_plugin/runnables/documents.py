"""``guard_documents()``: what a retriever or loader found, without the documents that carry instructions or harm."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, TypeAlias, get_args

from langchain_core.callbacks import AsyncParentRunManager, ParentRunManager
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, Field, SkipValidation
from typing_extensions import override

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.flow import (
    Allowed,
    Edited,
    Failed,
    OnEscalate,
    Outcome,
    Rules,
    describe,
    run_batch_async,
    run_batch_sync,
)
from guardrail_plugin.flow.tool_rails import tool_output_rail
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.construction import check_guardian, check_word, checked_policy
from guardrail_plugin.runnables.rail_runs import AsyncRailRuns, RailRuns, log_unjudged

OnHarmful: TypeAlias = Literal["drop", "annotate"]
Documents: TypeAlias = Sequence[Document]


class GuardedDocuments(RunnableSerializable[Documents, list[Document]], BaseDocumentTransformer):
    """Filters documents. Made by ``guard_documents()``, which documents the settings. Immutable.

    Also a document transformer (``transform_documents``) and, for loaders, a filter of iterators (``lazy``).

    Does not: hide what the retriever before it found from the caller's own traces of that retriever.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    guardian: Annotated[GuardianProtocol, SkipValidation] = Field(exclude=True)
    policy: Policy = Field(default_factory=Policy)
    on_harmful: OnHarmful = "drop"
    metadata_keys: tuple[str, ...] = ()
    on_escalate: Annotated[OnEscalate | None, SkipValidation] = Field(default=None, exclude=True)

    @override
    def __repr_args__(self) -> list[tuple[str | None, object]]:
        guardian = getattr(self.guardian, "id", type(self.guardian).__name__)
        return [("guardian", guardian), ("policy", self.policy.version), ("on_harmful", self.on_harmful)]

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return super().get_name(suffix, name=name or self.name or "guard_documents")

    @override
    def invoke(self, input: Documents, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        return self._call_with_config(self._filter, input, config)

    @override
    async def ainvoke(self, input: Documents, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        return await self._acall_with_config(self._afilter, input, config)

    @override
    def transform_documents(self, documents: Sequence[Document], **kwargs: Any) -> Sequence[Document]:
        return self._filter(documents)

    @override
    async def atransform_documents(self, documents: Sequence[Document], **kwargs: Any) -> Sequence[Document]:
        return await self._afilter(documents)

    def lazy(self, documents: Iterable[Document], *, batch_size: int = 32) -> Iterator[Document]:
        """Filter an iterator, such as ``loader.lazy_load()``, ``batch_size`` documents at a time."""
        source = iter(documents)
        while batch := list(islice(source, batch_size)):
            yield from self._filter(batch)

    async def alazy(self, documents: AsyncIterable[Document], *, batch_size: int = 32) -> AsyncIterator[Document]:
        """Like ``lazy``, for ``loader.alazy_load()``. Cancellation: passes to the guardian."""
        batch: list[Document] = []
        async for document in documents:
            batch.append(document)
            if len(batch) >= batch_size:
                for kept in await self._afilter(batch):
                    yield kept
                batch = []
        for kept in await self._afilter(batch):
            yield kept

    def _filter(self, documents: Documents, run_manager: ParentRunManager | None = None) -> list[Document]:
        checks = self._checks(documents)
        runs = RailRuns(
            [run_manager] if run_manager is not None else [], rail="document", policy_version=self.policy.version
        )
        try:
            outcomes = run_batch_sync([tool_output_rail(check, rules=self._rules) for check in checks], self.guardian)
            kept = self._kept(documents, outcomes)
        except BaseException as error:
            runs.fail(error)
            raise
        runs.close(_counts(outcomes))
        log_unjudged(outcomes)
        return kept

    async def _afilter(self, documents: Documents, run_manager: AsyncParentRunManager | None = None) -> list[Document]:
        checks = self._checks(documents)
        runs = await AsyncRailRuns.start(
            [run_manager] if run_manager is not None else [], rail="document", policy_version=self.policy.version
        )
        try:
            flows = [tool_output_rail(check, rules=self._rules) for check in checks]
            outcomes = await run_batch_async(flows, self.guardian)
            kept = self._kept(documents, outcomes)
        except BaseException as error:
            await runs.fail(error)
            raise
        await runs.close(_counts(outcomes))
        log_unjudged(outcomes)
        return kept

    @property
    def _rules(self) -> Rules:
        return Rules(policy=self.policy, on_escalate=self.on_escalate)

    def _checks(self, documents: object) -> list[Check]:
        if not isinstance(documents, list | tuple):
            raise InputError(f"guard_documents takes a list of documents, got {type(documents).__name__}")
        for document in documents:
            if not isinstance(document, Document):
                raise InputError(f"guard_documents takes documents, got {type(document).__name__} in the list")
        return [Check(self._text(document), rail="document") for document in documents]

    def _text(self, document: Document) -> str:
        values = (document.metadata.get(key) for key in self.metadata_keys)
        return "\n".join([*(str(value) for value in values if value is not None), document.page_content])

    def _kept(self, documents: Documents, outcomes: Sequence[Outcome]) -> list[Document]:
        kept: list[Document] = []
        for document, outcome in zip(documents, outcomes, strict=True):
            if isinstance(outcome, Failed):
                raise outcome.error
            if isinstance(outcome, Edited):
                # What was judged of the metadata was part of what has been edited.
                metadata = {key: "" if key in self.metadata_keys else v for key, v in document.metadata.items()}
                document = document.model_copy(update={"page_content": outcome.text, "metadata": metadata})
            if self.on_harmful == "annotate":
                # A copy: retrievers hand out the documents of their stores.
                fields = describe(outcome, policy_version=self.policy.version)
                document = document.model_copy(update={"metadata": {**document.metadata, "guardrail": fields}})
                kept.append(document)
            elif isinstance(outcome, Allowed | Edited):
                kept.append(document)
        return kept


def guard_documents(
    guardian: GuardianProtocol,
    *,
    on_harmful: OnHarmful = "drop",
    policy: Policy | None = None,
    metadata_keys: Sequence[str] = (),
    on_escalate: OnEscalate | None = None,
) -> GuardedDocuments:
    """Return a Runnable from documents to those a model may read: ``retriever | guard_documents(guardian)``.

    All documents of a call are one guardian batch; long ones are judged in windows, the worst of which counts. A
    document without text passes.

    Args:
        guardian: who judges, on the rail ``document``.
        on_harmful: ``"drop"``, or ``"annotate"``: all documents stay, each with its verdict in
            ``metadata["guardrail"]``; what is to be done about ``action: block`` is then the caller's business.
        policy: when to act. What cannot be judged is dropped unless ``on_failure`` says otherwise.
        metadata_keys: metadata that the prompt shows to the model (titles, say), to be judged with the text.
        on_escalate: whom to ask when the policy says ``"escalate"``; ``None``: the document counts as harmful. An edit
            takes the place of all that was judged: the text, and the metadata under ``metadata_keys``, which become "".

    Raises:
        ConfigError: a setting is wrong.
    """
    check_guardian(guardian)
    check_word("on_harmful", on_harmful, get_args(OnHarmful))
    policy = checked_policy(policy, guardian)
    if isinstance(metadata_keys, str):
        raise ConfigError(f"metadata_keys must be a list of keys, got {metadata_keys!r}")
    if on_escalate is not None and not callable(on_escalate):
        raise ConfigError(f"on_escalate must be a function, got {type(on_escalate).__name__}")
    return GuardedDocuments(
        guardian=guardian,
        policy=policy,
        on_harmful=on_harmful,
        metadata_keys=tuple(metadata_keys),
        on_escalate=on_escalate,
    )


def _counts(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return what the rail's one run for many documents tells: no text, and no verdict of a single one."""
    passed = sum(isinstance(outcome, Allowed | Edited) for outcome in outcomes)
    unjudged = sum(outcome.error is not None for outcome in outcomes)
    return {"rail": "document", "documents": len(outcomes), "passed": passed, "unjudged": unjudged}
