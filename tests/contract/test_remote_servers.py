"""Replicas on OpenAI-compatible servers: their manners, several of them, and what happens when they fail."""

from __future__ import annotations

import itertools
import json
import math
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any

import pytest

from guardrail_plugin.core.errors import ConfigError, GuardianTimeout, InferenceError, PoolOverloaded, ReplicaDead
from guardrail_plugin.models.remote import RemoteFactory, RemoteReplica, shown_address, split_address
from guardrail_plugin.models.remote_calls import Calls
from guardrail_plugin.models.remote_endpoints import FIRST_PAUSE_S
from guardrail_plugin.pool import Account, GenerateRequest, InferencePool, RowFailed, ScoreRequest, ScoreResult
from guardrail_plugin.testing.replicas import ScriptedReplica

WAIT_S = 30.0
LABELS = (20, 30)
TYPED = (GuardianTimeout, InferenceError, PoolOverloaded, ReplicaDead)


def telling(request: ScoreRequest) -> list[float]:
    """Make the first label as likely as the prompt's first id says, among 259 tokens of which two count."""
    p = request.input_ids[0] / 300
    other = math.log(1e-6)
    return [math.log(p) if i == 20 else math.log(0.99 - p) if i == 30 else other for i in request.label_ids]


def expected(ident: int) -> float:
    return math.log(ident / 300 / 0.99)


def score(ident: int) -> ScoreRequest:
    return ScoreRequest("m", (ident, 1), LABELS)


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    return serve(replica=ScriptedReplica(logprobs=telling))


def factory(*servers: Any, codec: Any, **options: Any) -> RemoteFactory:
    urls = ",".join(one.url for one in servers)
    return RemoteFactory(f"openai:{urls}#m", codec=codec, **options)


@pytest.fixture
def relay(codec: Any) -> Iterator[Callable[..., RemoteReplica]]:
    """Make replicas that are told how long callers wait; all are closed at the end."""
    made: list[RemoteReplica] = []

    def make(*servers: Any, **options: Any) -> RemoteReplica:
        replica = factory(*servers, codec=codec, **options)("auto")
        assert isinstance(replica, RemoteReplica)
        made.append(replica)
        return replica

    yield make
    for replica in made:
        replica.close()


def status(code: int, **headers: str) -> Callable[[object], tuple[int, dict[str, str], bytes]]:
    return lambda _: (code, headers, b'{"error": {"message": "no", "code": "x"}}')


def held_until(wait_for: Callable[[], object]) -> Callable[[object], None]:
    """Answer as always, but later."""

    def fault(_: object) -> None:
        wait_for()

    return fault


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "plain"])
def test_each_manner_gives_the_same_scores_and_the_same_tokens(dialect: str, serve: Any, codec: Any) -> None:
    server = serve(dialect, replica=ScriptedReplica(logprobs=telling, tokens=lambda r: range(40, 50)))
    replica = factory(server, codec=codec)("auto")
    for result, ident in zip(replica.score([score(ident) for ident in range(50, 80)]), range(50, 80), strict=True):
        assert result.logprobs[0] == pytest.approx(expected(ident), abs=1e-3)
    decode = replica.start([GenerateRequest("m", (1,), 6), GenerateRequest("m", (2,), 6, stop_ids=frozenset({43}))])
    made: dict[int, list[int]] = {0: [], 1: []}
    ends = {}
    while news := decode.step():
        for token in news:
            if token.token_id is not None:
                made[token.row].append(token.token_id)
            if token.finish_reason is not None:
                ends[token.row] = token.finish_reason
    assert made == {0: [40, 41, 42, 43, 44, 45], 1: [40, 41, 42]}
    assert ends == {0: "length", 1: "stop"}


def test_calls_run_side_by_side_within_the_limit(server: Any, codec: Any) -> None:
    together = threading.Barrier(4)
    server.fault = held_until(lambda: together.wait(WAIT_S))
    replica = factory(server, codec=codec, max_connections=4)("auto")
    assert len(replica.score([score(1 + ident) for ident in range(64)])) == 64  # 8 calls, 4 of them at once
    assert server.most_at_once == 4


def test_two_servers_share_the_work_and_a_dead_one_is_left_out_until_it_is_back(
    serve: Any, codec: Any, until: Callable[[Callable[[], bool]], None]
) -> None:
    one, two = (serve(replica=ScriptedReplica(logprobs=telling)) for _ in range(2))
    replica = factory(one, two, codec=codec)("auto")
    together = threading.Barrier(8)
    one.fault = two.fault = held_until(lambda: together.wait(WAIT_S))
    replica.score([score(1 + ident) for ident in range(64)])  # 8 calls, all in flight before one is answered
    assert (len(one.bodies), len(two.bodies)) == (4, 4)
    one.fault = two.fault = None
    two.stop()
    before = len(one.bodies)
    for _ in range(4):
        assert len(replica.score([score(1 + ident) for ident in range(64)])) == 64
    assert len(one.bodies) == before + 32
    two.start()
    seen = len(two.bodies)
    until(lambda: bool(replica.score([score(7)] * 16)) and len(two.bodies) > seen)


def test_a_server_killed_under_load_leaves_nobody_waiting_and_is_used_again_when_back(server: Any, codec: Any) -> None:
    calls, inside, killed = itertools.count(), threading.Event(), threading.Event()

    def dying(_: object) -> tuple[int, dict[str, str], bytes] | None:
        if next(calls) == 0:
            return None  # the first of the load is answered, the others are in flight when the server dies
        inside.set()
        killed.wait(WAIT_S)
        return status(500)(0)

    with InferencePool(drain_s=0.0, coalesce=False) as pool:
        pool.register("m", factory(server, codec=codec))
        assert pool.submit(score(5)).result(WAIT_S).logprobs[0] == pytest.approx(expected(5), abs=1e-3)
        server.fault = dying
        futures = [pool.submit(score(1 + ident % 200)) for ident in range(300)]
        wait(futures, WAIT_S, return_when="FIRST_COMPLETED")
        assert inside.wait(WAIT_S)
        server.stop()  # nobody listens any more ...
        killed.set()  # ... and what is in flight fails
        _, waiting = wait(futures, WAIT_S)
        assert not waiting, "a caller hangs"
        for ident, future in enumerate(futures):
            error = future.exception(0)
            assert error is None or isinstance(error, TYPED), error
            if error is None:
                assert future.result(0).logprobs[0] == pytest.approx(expected(1 + ident % 200), abs=1e-3)
        server.fault = None
        server.start()
        assert isinstance(eventually(pool, score(9)), ScoreResult)


def eventually(pool: InferencePool, request: ScoreRequest) -> object:
    """Ask until there is an answer, as often as the pool lets: it tries a broken model again after a pause."""
    outcome: object = None
    tries = threading.Event()
    for _ in range(1200):
        outcome = pool.score_many([request], timeout_s=WAIT_S)[0]
        if isinstance(outcome, ScoreResult):
            break
        tries.wait(0.05)
    return outcome


@pytest.mark.parametrize("code", [429, 503])
def test_who_asks_to_be_called_later_is(code: int, server: Any, codec: Any) -> None:
    replica = factory(server, codec=codec)("auto")
    answers = iter([status(code, **{"retry-after": "0.05"})(0), None])
    server.fault = lambda _: next(answers, None)
    assert replica.score([score(6)])[0].logprobs[0] == pytest.approx(expected(6), abs=1e-3)
    assert len(server.bodies) == 2


def test_a_long_pause_is_told_to_the_caller_as_overload(server: Any, codec: Any) -> None:
    server.fault = status(429, **{"retry-after": "30"})
    with InferencePool() as pool:
        pool.register("m", factory(server, codec=codec))
        outcomes = pool.score_many([score(1 + ident) for ident in range(5)])
        assert [type(outcome) for outcome in outcomes] == [PoolOverloaded] * 5
        assert isinstance(outcomes[0], PoolOverloaded)
        assert outcomes[0].retry_after_s == pytest.approx(30, abs=5)


def test_a_server_that_hangs_is_given_up_and_another_answers(serve: Any, codec: Any) -> None:
    stuck, fine = (serve(replica=ScriptedReplica(logprobs=telling)) for _ in range(2))
    never = threading.Event()
    stuck.fault = held_until(lambda: never.wait(WAIT_S))
    made = factory(stuck, fine, codec=codec)
    replica = made("auto")
    assert made._calls is not None
    made._calls._clients[stuck.url].timeout = 0.4  # only of the one that never answers in time
    try:
        results = replica.score([score(1 + ident) for ident in range(32)])
        assert [r.logprobs[0] for r in results] == pytest.approx([expected(1 + i) for i in range(32)], abs=1e-3)
    finally:
        never.set()


def test_no_slot_stays_in_a_call_for_which_nobody_waits(server: Any, codec: Any) -> None:
    never = threading.Event()
    with InferencePool() as pool:
        pool.register("m", factory(server, codec=codec))
        pool.submit(score(1)).result(WAIT_S)
        server.fault = held_until(lambda: never.wait(WAIT_S))
        for ident in range(2, 40):
            with pytest.raises((GuardianTimeout, PoolOverloaded)):
                pool.submit(score(ident), timeout_s=0.1).result(WAIT_S)
            if len(server.bodies) > 1 + len(pool.stats().slots):
                break
        server.fault = None
        found = pool.submit(score(9), timeout_s=5.0).result(WAIT_S)
        assert found.logprobs[0] == pytest.approx(expected(9), abs=1e-3)
        assert pool.stats().replica_restarts == 0
    never.set()


def test_a_call_lasts_as_long_as_the_most_patient_of_its_callers(
    server: Any, relay: Callable[..., RemoteReplica]
) -> None:
    replica = relay(server, timeout_s=5.0)
    go_on = threading.Event()
    server.fault = held_until(lambda: go_on.wait(WAIT_S))
    with pytest.raises(GuardianTimeout):
        replica.score_for([score(3), score(4)], [Account(timeout_s=0.001), Account(timeout_s=0.01)])
    threading.Timer(0.2, go_on.set).start()
    for patient in (Account(), Account(timeout_s=WAIT_S)):
        assert len(replica.score_for([score(3), score(4)], [Account(timeout_s=0.001), patient])) == 2


def test_whoever_waits_for_a_turn_and_a_stream_give_up_in_time(
    server: Any, relay: Callable[..., RemoteReplica]
) -> None:
    replica = relay(server, max_connections=1)
    never = threading.Event()
    server.fault = held_until(lambda: never.wait(WAIT_S))
    decode = replica.start_for([GenerateRequest("m", (1,), 6)], [Account(timeout_s=0.2)])
    with pytest.raises(GuardianTimeout):
        replica.score_for([score(3)], [Account(timeout_s=0.01)])
    with pytest.raises(RowFailed) as caught:
        list(iter(decode.step, []))
    assert isinstance(caught.value.error, GuardianTimeout)
    server.fault = None
    assert replica.score_for([score(3)], [Account(timeout_s=5.0)]), "the stream has given its connection back"
    never.set()


def test_callers_who_wait_briefly_leave_a_slow_server_alone_only_if_another_is_well(
    serve: Any, relay: Callable[..., RemoteReplica]
) -> None:
    slow, fine = (serve(replica=ScriptedReplica(logprobs=telling)) for _ in range(2))
    never = threading.Event()
    slow.fault = held_until(lambda: never.wait(WAIT_S))
    alone, both = relay(slow), relay(slow, fine)
    for _ in range(4):
        with pytest.raises(GuardianTimeout):
            alone.score_for([score(3)], [Account(timeout_s=0.001)])
    answered = [answers_in_time(both, 0.2) for _ in range(16)]
    assert answered.count(False) < 8, "it keeps getting every other call"
    slow.fault = None
    assert alone.score([score(3)])
    never.set()


def answers_in_time(replica: RemoteReplica, timeout_s: float) -> bool:
    try:
        return bool(replica.score_for([score(3)], [Account(timeout_s=timeout_s)]))
    except GuardianTimeout:
        return False


def without(answers: Sequence[int]) -> Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]:
    """Answer with choices of these numbers, whose log-probabilities are not numbers."""

    def fault(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        bad = {"tokens": ["x"], "token_logprobs": [0.0], "top_logprobs": [{"x": math.nan}], "text_offset": [0]}
        choices = [{"index": at, "text": "x", "finish_reason": "length", "logprobs": bad} for at in answers]
        told = {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": choices}
        return 200, {"content-type": "application/json"}, json.dumps(told).encode()

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        lambda _: (200, {"content-type": "text/html"}, b"<h1>It works!</h1>"),
        lambda _: (200, {"content-type": "application/json"}, b"{"),
        lambda _: (200, {"content-type": "application/json"}, b'{"choices": [{"index": 0}]}'),
        without([]),
        without([0]),
        without([0, 1, 2]),
    ],
    ids=["html", "half a json", "no fields", "no answer", "not a number", "too many answers"],
)
def test_garbage_is_an_error_and_never_a_verdict(fault: Any, server: Any, codec: Any) -> None:
    replica = factory(server, codec=codec)("auto")
    server.fault = fault
    with pytest.raises((InferenceError, ReplicaDead)):
        replica.score([score(3)])
    server.fault = None


def test_a_prompt_that_the_server_refuses_fails_alone(server: Any, codec: Any) -> None:
    server.fault = lambda body: status(400)(0) if any(p[0] == 13 for p in body["prompt"]) else None
    with InferencePool() as pool:
        pool.register("m", factory(server, codec=codec))
        outcomes = pool.score_many([score(ident) for ident in range(8, 24)])
        failed = [8 + at for at, outcome in enumerate(outcomes) if isinstance(outcome, InferenceError)]
        assert failed == [13]


@pytest.mark.parametrize("code", [401, 404])
def test_a_wrong_key_or_model_is_told_at_once(code: int, server: Any, codec: Any) -> None:
    server.fault = status(code)
    replica = factory(server, codec=codec)("auto")
    with pytest.raises(ReplicaDead, match=str(code)):
        replica.score([score(3)])
    assert len(server.bodies) == 1, "trying again does not help"


@pytest.mark.parametrize("code", [401, 403, 404])
def test_one_of_several_that_refuses_costs_no_request_and_is_used_again_when_it_serves(
    code: int, serve: Any, codec: Any, until: Callable[[Callable[[], bool]], None]
) -> None:
    good, bad = (serve(replica=ScriptedReplica(logprobs=telling)) for _ in range(2))
    bad.fault = status(code)
    with InferencePool() as pool:
        pool.register("m", factory(good, bad, codec=codec))
        outcomes = [pool.submit(score(1 + ident)).exception(WAIT_S) for ident in range(16)]
        assert outcomes == [None] * 16
        assert pool.stats().replica_restarts == 0
        assert len(bad.bodies) < 6
        bad.fault = None
        seen = len(bad.bodies) + 1  # one may still be refused
        until(lambda: bool(pool.score_many([score(7)] * 16)) and len(bad.bodies) > seen)


def test_where_all_refuse_they_say_why(serve: Any, relay: Callable[..., RemoteReplica]) -> None:
    servers = [serve(replica=ScriptedReplica(logprobs=telling)) for _ in range(2)]
    for one in servers:
        one.fault = status(403)
    with pytest.raises(ReplicaDead, match="403"):
        relay(*servers).score([score(3)])
    assert [len(one.bodies) for one in servers] == [1, 1]


@pytest.mark.parametrize(("lists", "back"), [(401, False), (403, False), (404, True), (200, True)])
def test_a_server_that_refused_us_is_not_back_while_it_refuses_to_list_its_models(
    lists: int, back: bool, server: Any, serve: Any, until: Callable[[Callable[[], bool]], None]
) -> None:
    openai = pytest.importorskip("openai")
    now = [0.0]
    urls = [serve(replica=ScriptedReplica(logprobs=telling)).url, server.url]
    clients = {url: openai.OpenAI(base_url=url, api_key="none", max_retries=0) for url in urls}
    calls = Calls(clients, clock=lambda: now[0])
    server.lists, server.fault = lists, status(401)
    calls.probe()  # that nothing is listed says nothing about one that has not refused a call

    def left_alone_until() -> float | None:
        return calls.endpoints.all[1].open_until

    assert left_alone_until() is None
    for _ in range(2):
        calls.run(lambda client: client.completions.create(model="m", prompt=[1], max_tokens=1, logprobs=1))
    assert left_alone_until() == pytest.approx(FIRST_PAUSE_S)
    server.fault, now[0] = None, 1.0
    calls.run(lambda client: client.completions.create(model="m", prompt=[1], max_tokens=1, logprobs=1))
    until(lambda: left_alone_until() != pytest.approx(FIRST_PAUSE_S))
    assert (left_alone_until() is None) is back
    calls.close()


def test_labels_that_the_server_does_not_offer_are_an_error_or_its_choice(serve: Any, codec: Any) -> None:
    unlikely = ScriptedReplica(logprobs=lambda r: [0.0 if i == 65 else -50.0 for i in r.label_ids])
    server = serve("plain", replica=unlikely)
    with pytest.raises(InferenceError, match="none of the labels"):
        factory(server, codec=codec)("auto").score([ScoreRequest("m", (1,), (250, 251))])
    server = serve("plain", replica=unlikely)
    chosen = factory(server, codec=codec, constrain=True)("auto").score([ScoreRequest("m", (1,), (250, 65))])[0]
    assert chosen.logprobs[1] == pytest.approx(0.0, abs=1e-6)
    assert server.bodies[0]["structured_outputs"] == {"choice": [chr(250), "A"]}


def test_a_stream_that_breaks_goes_on_where_it_was(serve: Any, codec: Any) -> None:
    server = serve(replica=ScriptedReplica(tokens=lambda r: range(r.input_ids[-1] + 1, 60)))
    whole = server.pieces
    cut = iter([3])

    def pieces(body: dict[str, Any]) -> Any:
        left = next(cut, None)
        for at, piece in enumerate(whole(body)):
            if at == left:
                raise OSError("the line is cut")
            yield piece

    server.pieces = pieces
    with InferencePool() as pool:
        pool.register("m", factory(server, codec=codec))
        made = pool.generate(GenerateRequest("m", (40,), max_new_tokens=8), timeout_s=WAIT_S)
    assert made.token_ids == tuple(range(41, 49))
    assert len(server.bodies) == 2


def test_a_soft_prompt_needs_a_server_that_takes_embeddings(server: Any, codec: Any) -> None:
    torch = pytest.importorskip("torch")
    embed = torch.nn.Embedding(300, 4)
    replica = factory(server, codec=codec, embed=lambda ids: embed(torch.tensor(ids)))("auto")
    server.fault = status(400)
    with pytest.raises(InferenceError, match="--enable-prompt-embeds"):
        replica.score([score(3), score(4)])
    assert len(server.bodies[0]["prompt_embeds"]) == 2
    assert server.bodies[0]["prompt"] == ""


def test_nobody_there_is_told_at_once() -> None:
    with InferencePool() as pool:
        pool.register("m", RemoteFactory("openai:http://127.0.0.1:9/v1#m", codec=None))  # type: ignore[arg-type]
        with pytest.raises(ReplicaDead):
            pool.submit(score(1)).result(WAIT_S)


@pytest.mark.parametrize("address", ["openai:http://h/v1", "openai:ftp://h/v1#m", "openai:http://a/v1,b#m"])
def test_an_address_of_another_form_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="MODEL"):
        split_address(address)


def test_no_key_of_a_url_is_shown() -> None:
    address = "openai:https://me:secret@one.example/v1,http://two.example:8000/v1#model@1"
    assert shown_address(address) == "openai:https://one.example/v1,http://two.example:8000/v1#model@1"


def test_what_a_server_says_when_it_refuses_a_prompt_is_not_passed_on(server: Any, codec: Any) -> None:
    quoting = b'{"error": {"message": "invalid input: my secret prompt", "code": 400}}'
    server.fault = lambda _: (400, {"content-type": "application/json"}, quoting)
    with pytest.raises(InferenceError, match="status 400") as caught:
        factory(server, codec=codec)("auto").score([score(3)])
    assert "secret" not in "".join(traceback.format_exception(caught.value))
