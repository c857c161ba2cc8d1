"""Guardrails in a FastAPI application: the README's lines, on a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from pydantic import BaseModel

from guardrail_fastapi import (
    Guardrail,
    GuardrailMiddleware,
    PolicySource,
    PolicyState,
    as_http_errors,
    guardrail,
    guardrail_lifespan,
    policy_file,
)
from guardrail_fastapi.large_texts import LargeTexts
from guardrail_gateway.testing import serving
from guardrail_plugin import (
    Check,
    ConfigError,
    GuardianError,
    InferenceError,
    InferencePool,
    MissingDependencyError,
    Policy,
    PoolOverloaded,
    ReplicaDead,
)
from guardrail_plugin.flow import Blocked
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.observe import RailEvent, RequestEvent
from guardrail_plugin.pool import on_behalf_of
from guardrail_plugin.testing import ScriptedGuardian, allow_all, verdict

SAFEGUARD = "I can't help with that."


class Chat(BaseModel):
    question: str


def rule() -> ScriptedGuardian:
    words = {
        "bomb": verdict(risk=0.9, hazard="S9"),
        "busy": PoolOverloaded("full", retry_after_s=2.2),
        "dead": ReplicaDead("gone"),
        "mute": GuardianError("nothing"),
    }
    return ScriptedGuardian(words, respond=SAFEGUARD)


class Heard:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.rails: list[RailEvent] = []

    def rail(self, event: RailEvent) -> None:
        self.rails.append(event)

    def request(self, event: RequestEvent) -> None: ...


async def words(question: AsyncIterator[dict[str, str]]) -> AsyncIterator[str]:
    async for asked in question:
        yield "You asked me this: "
        yield f"{asked['question']}. "
        if "evil" in asked["question"]:
            yield "Take the bomb. "
        yield "That is all."


def application(heard: Heard) -> FastAPI:
    app = FastAPI(lifespan=guardrail_lifespan(guardian=rule(), observers=[heard]))
    app.add_middleware(GuardrailMiddleware, paths=["/plain"])
    rail_of = Depends(guardrail)

    @app.post("/chat")
    async def chat(body: Chat, rail: Guardrail = rail_of) -> dict[str, str]:
        chain = RunnableLambda(lambda asked: f"You asked: {asked['question']}")
        return {"answer": await rail.reply(chain, {"question": body.question}, output_type=str)}

    @app.post("/message")
    async def message(body: Chat, rail: Guardrail = rail_of) -> dict[str, str]:
        chain = RunnableLambda(lambda asked: AIMessage(f"the answer to {asked['question']}"))
        return {"answer": await rail.reply(chain, {"question": body.question}, output_type=AIMessage)}  # type: ignore[dict-item]

    @app.post("/stream")
    async def stream(body: Chat, rail: Guardrail = rail_of) -> Response:
        chain: Any = RunnableGenerator(words)
        rails = ("input", "output")
        return await rail.sse(chain, {"question": body.question}, output_type=str, rails=rails)

    @app.post("/check")
    async def check(body: Chat, rail: Guardrail = rail_of) -> dict[str, object]:
        return (await rail.check(body.question)).as_dict()

    @app.post("/plain")
    async def plain(body: Chat) -> dict[str, str]:
        return {"plain": body.question}

    return app


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def http(heard: Heard) -> Iterator[httpx2.Client]:
    with serving(application(heard)) as url, httpx2.Client(base_url=url, timeout=20.0, trust_env=False) as made:
        yield made


def test_answers_and_safeguard_responses(http: httpx2.Client, heard: Heard) -> None:
    heard.rails.clear()
    assert http.post("/chat", json={"question": "hi"}).json() == {"answer": "You asked: hi"}
    assert http.post("/chat", json={"question": "a bomb"}).json() == {"answer": SAFEGUARD}
    assert [event.action for event in heard.rails] == ["allow", "block"]


def test_an_answer_of_another_type_is_told_without_its_text(
    http: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = http.post("/message", json={"question": "hi"})
    assert (answer.status_code, answer.json()["detail"]["code"]) == (500, "internal_error")
    assert "end it in StrOutputParser()" in caplog.text
    assert "the answer to" not in caplog.text + answer.text


def test_a_policy_for_hazards_that_nobody_names_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"unknown hazard code 's2' \(did you mean 'S2'\?\)"):
        PolicySource(Policy(hazards={"s2": {"action": "allow"}}))


@pytest.mark.parametrize("path", ["/chat", "/stream", "/check", "/plain"])
@pytest.mark.parametrize(
    ("question", "status", "code", "retry_after"),
    [("busy", 429, "overloaded", "3"), ("dead", 503, "unavailable", "5"), ("mute", 503, "unavailable", "5")],
)
def test_no_verdict_is_an_http_error(
    http: httpx2.Client, path: str, question: str, status: int, code: str, retry_after: str
) -> None:
    answer = http.post(path, json={"question": question})
    assert (answer.status_code, answer.json()["detail"]["code"]) == (status, code)
    assert answer.headers["retry-after"] == retry_after


def test_checks(http: httpx2.Client) -> None:
    assert http.post("/check", json={"question": "a bomb"}).json()["hazard"] == "S9"


def test_streams_release_checked_text_only(http: httpx2.Client) -> None:
    raw = http.post("/stream", json={"question": "hi"}).text
    assert '{"text":"hi. "}' in raw
    assert raw.endswith('data: {"done":true}\n\n')
    blocked = http.post("/stream", json={"question": "evil"}).text
    assert "bomb" not in blocked
    assert SAFEGUARD in blocked


def test_the_middleware_judges_before_the_endpoint(http: httpx2.Client) -> None:
    assert http.post("/plain", json={"question": "hi"}).json() == {"plain": "hi"}
    blocked = http.post("/plain", json={"question": "a bomb"}).json()
    assert blocked["message"] == {"role": "assistant", "content": SAFEGUARD}
    assert blocked["guardrail"]["hazard"] == "S9"


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b'{"a": "x", "b": "y"}', 422), (b"[3]", 422), (b"a" * 2_000_000, 413)]
)
def test_the_middleware_refuses_what_it_cannot_read(http: httpx2.Client, content: bytes, status: int) -> None:
    answer = http.post("/plain", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status


def test_a_block_in_the_applications_own_format() -> None:
    def told(outcome: Blocked, body: dict[str, Any]) -> Response:
        return JSONResponse({"refused": outcome.response, "id": body["id"]})

    app = FastAPI(lifespan=guardrail_lifespan(guardian=rule()))
    app.add_middleware(GuardrailMiddleware, paths=["/chat"], input_key="text", on_block=told)
    with serving(app) as url:
        answer = httpx2.post(f"{url}/chat", json={"text": "a bomb", "id": 7}, trust_env=False, timeout=20.0)
    assert answer.json() == {"refused": SAFEGUARD, "id": 7}


@pytest.mark.parametrize(("settings", "passes"), [({}, False), ({"on_uncheckable": "allow"}, True)])
@pytest.mark.parametrize("text", ["hi", ""])
def test_the_middleware_decides_about_images(settings: dict[str, Any], passes: bool, text: str) -> None:
    app = FastAPI(lifespan=guardrail_lifespan(guardian=rule()))
    app.add_middleware(GuardrailMiddleware, paths=["/chat"], **settings)

    @app.post("/chat")
    async def chat() -> str:
        return "reached"

    image = {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}}
    said = [{"type": "text", "text": text}] if text else []
    with serving(app) as url:
        answer = httpx2.post(
            f"{url}/chat",
            json={"messages": [{"role": "user", "content": [*said, image]}]},
            trust_env=False,
            timeout=20.0,
        )
    assert (answer.json() == "reached") == passes


class Slow:
    """A guardian that never answers, and tells when it was asked and when it was left alone."""

    id = "slow"

    def __init__(self) -> None:
        self.asked, self.left = threading.Event(), threading.Event()

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        raise NotImplementedError

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        raise AssertionError

    def respond(self, check: Check, verdict: object, *, timeout_s: float | None = None) -> str:
        raise NotImplementedError

    async def arespond(self, check: Check, verdict: object, *, timeout_s: float | None = None) -> str:
        raise NotImplementedError


@pytest.mark.parametrize("path", ["/chat", "/plain"])
def test_a_client_that_leaves_cancels_the_work(path: str) -> None:
    guardian, heard = Slow(), Heard()
    app = application(heard)
    app.router.lifespan_context = guardrail_lifespan(guardian=guardian, warm_up=False)
    content = b'{"question": "hi"}'
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with serving(app) as url:
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), timeout=20.0) as connection:
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            assert guardian.asked.wait(20.0)
            assert not guardian.left.is_set()
        assert guardian.left.wait(20.0)


def test_the_lifespan_owns_one_pool_and_drains_it() -> None:
    pools: list[InferencePool | None] = []
    app = FastAPI(lifespan=guardrail_lifespan(guardian=allow_all(), policy=None))

    @app.get("/")
    async def look(request: Request) -> dict[str, object]:
        pools.append(request.state.guardrail.pool)
        return {"unready": request.state.guardrail.unready()}

    with serving(app) as url:
        assert httpx2.get(url, trust_env=False, timeout=20.0).json() == {"unready": None}
    assert pools == [None]


def test_without_a_lifespan_the_error_tells_what_to_do() -> None:
    app = FastAPI()

    @app.get("/")
    async def look(rail: Guardrail = Depends(guardrail)) -> None: ...  # noqa: B008

    with serving(app) as url:
        assert httpx2.get(url, trust_env=False, timeout=20.0).status_code == 500


def test_a_broken_policy_file_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("thresold = 0.5")
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        PolicySource(file)
    with (
        pytest.raises(RuntimeError, match="did not start"),
        serving(FastAPI(lifespan=guardrail_lifespan(guardian=allow_all(), policy=str(file)))),
    ):
        pass


async def test_a_policy_source_keeps_what_was_sound(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('version = "one"')
    told: list[tuple[str, bool]] = []
    source = PolicySource(file, on_change=lambda state: told.append((state.policy.version, state.error is None)))
    two, three = 'version = "two"', "version = 3"

    async def changes() -> AsyncIterator[object]:
        for content in (two, three, three, two, "", two, "", "# the default policy", 'version = "\\ud'):
            file.write_text(content)
            yield content
        file.unlink()
        yield "gone"

    await source.watch(changes())
    # A file that has become empty is one that is being written; a comment alone is a sound one.
    kept = [("two", True), ("two", False)] * 3
    assert told == [*kept, ("default", True), ("default", False), ("default", False)]
    assert source.state.reloads == 2


@pytest.mark.parametrize("error", [OSError("no watches left"), MissingDependencyError("watchfiles", extra="fastapi")])
async def test_a_file_that_cannot_be_watched_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def broken() -> AsyncIterator[object]:
        file.write_text('version = "two"')
        yield "changed"
        raise error

    def told(state: PolicyState) -> None:
        loop.call_soon_threadsafe(seen.put_nowait, state.policy.version)
        raise ValueError("a listener's own trouble")

    loop, seen = asyncio.get_running_loop(), asyncio.Queue[str]()
    monkeypatch.setattr(policy_file, "_POLL_S", 0.01)
    file = tmp_path / "policy.toml"
    file.write_text('version = "one"')
    watching = asyncio.create_task(PolicySource(file, on_change=told).watch(broken()))
    try:
        assert await seen.get() == "two"
        file.write_text('version = "three"')
        while await seen.get() != "three":  # it may be seen while it is empty
            pass
    finally:
        await policy_file.end(watching)
    assert "cannot be watched" in caplog.text
    assert "own trouble" not in caplog.text


async def test_an_http_error_tells_nothing_of_what_it_was_raised_from() -> None:
    secret = "a secret of mine"
    with pytest.raises(HTTPException) as caught:
        async with as_http_errors():
            raise InferenceError("refused") from ValueError(f"you sent: {secret}")
    assert secret not in "".join(traceback.format_exception(caught.value))


ENVELOPE = {"lc": 1, "type": "constructor", "id": ["HumanMessage"], "kwargs": {"content": "hi"}}


@pytest.mark.parametrize(
    "message", [{"role": "user", "content": "a bomb", **ENVELOPE}, {"role": "remove", "id": "1", "content": "a bomb"}]
)
def test_the_middleware_refuses_what_langchain_alone_reads(message: dict[str, Any]) -> None:
    app = FastAPI(lifespan=guardrail_lifespan(guardian=rule()))
    app.add_middleware(GuardrailMiddleware, paths=["/chat"])

    @app.post("/chat")
    async def chat(request: Request) -> object:
        return (await request.json())["messages"][-1]["content"]

    with serving(app) as url:
        turns = [{"role": "user", "content": "hi"}, message]
        answer = httpx2.post(f"{url}/chat", json={"messages": turns}, trust_env=False, timeout=20.0)
    assert (answer.status_code, "bomb" in answer.text) == (422, False)


@pytest.mark.parametrize(("characters", "threads"), [(100, 0), (40_000, 1)])
async def test_large_texts_are_read_off_the_event_loop(characters: int, threads: int) -> None:
    loop, seen = threading.get_ident(), []

    def judged(check: Check) -> CheckOutcome:
        seen.append(threading.get_ident())
        return verdict()

    guardian = LargeTexts(ScriptedGuardian(judged))
    [outcome] = await guardian.acheck_many([Check("a" * characters)])
    assert not isinstance(outcome, Exception)
    assert sum(thread != loop for thread in seen) == threads


async def test_a_tenants_large_texts_keep_nobody_else_waiting() -> None:
    busy, done = threading.Event(), threading.Event()

    def judged(check: Check) -> CheckOutcome:
        if check.text.startswith("a"):
            busy.set()
            done.wait(20)
        return verdict()

    guardian = LargeTexts(ScriptedGuardian(judged))
    with on_behalf_of("a"):
        flood = [asyncio.create_task(guardian.acheck_many([Check("a" * 40_000)])) for _ in range(60)]
    assert await asyncio.to_thread(busy.wait, 10)
    try:
        with on_behalf_of("b"):
            [outcome] = await asyncio.wait_for(guardian.acheck_many([Check("b" * 40_000)]), 10)
        assert not isinstance(outcome, Exception)
        await asyncio.wait_for(anyio.to_thread.run_sync(bool), 10)  # what an endpoint that is no coroutine runs in
    finally:
        done.set()
        await asyncio.gather(*flood)


@pytest.mark.parametrize(("root", "path"), [("", "/chat"), ("/api", "/api/chat"), ("/api", "/chat")])
def test_the_middleware_judges_below_a_prefix(root: str, path: str) -> None:
    app = FastAPI(lifespan=guardrail_lifespan(guardian=rule()))
    app.root_path = root
    app.add_middleware(GuardrailMiddleware, paths=["/chat"])

    @app.post("/chat")
    async def chat() -> str:
        return "reached"

    with serving(app) as url:
        told = [
            httpx2.post(f"{url}{path}", json={"input": text}, trust_env=False, timeout=20.0).json()
            for text in ("a bomb", "a boat")
        ]
    assert (told[0]["message"]["content"], told[1]) == (SAFEGUARD, "reached")


async def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the watched folders changes: deployments switch a link above them."""
    monkeypatch.setattr(policy_file, "_POLL_S", 0.05)
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "policy.toml").write_text(f'version = "{version}"\n')
    link, new = tmp_path / "current", tmp_path / "new"
    link.symlink_to("one")
    loop, taken = asyncio.get_running_loop(), asyncio.Event()
    source = PolicySource(link / "policy.toml", on_change=lambda state: loop.call_soon_threadsafe(taken.set))
    watching = asyncio.create_task(source.watch())
    try:
        await asyncio.sleep(0.3)
        new.symlink_to("two")
        new.rename(link)
        await asyncio.wait_for(taken.wait(), 10)
    finally:
        await policy_file.end(watching)
    assert source.policy.version == "two"
