"""What servers do wrong: it is put right where that is possible, and is never a score."""

from __future__ import annotations

import asyncio
import email.utils
import signal
import socket
import threading
import time

import numpy as np
import pytest
import torch
from reward_servers import ScriptedServer, mean_levels

from ddpo.media import Image
from ddpo.rewards import load_reward, score, to_uint8
from ddpo.runtime.errors import RewardError

NUMBER = 6
PROMPTS = [f"prompt {index}" for index in range(NUMBER)]
QUICK = {"backoff": 0.01, "timeout": 5.0, "retries": 2}


@pytest.fixture
def images():
    return torch.rand(NUMBER, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def remote(*servers, **options):
    return load_reward({"name": "remote", "url": [server.url for server in servers]} | QUICK | options)


def scored(reward, images):
    return score(reward, Image(), images, PROMPTS, [{}] * NUMBER).tolist()


def expected(images):
    return to_uint8(images.numpy()).mean(axis=(1, 2, 3)).tolist()


def status(code, **headers):
    return lambda handler, body: handler.answer(code, {"error": "scripted."}, **headers)


def changed(change):
    """Answer with the good scores after a change."""
    return lambda handler, body: handler.scores(change(mean_levels(body)))


def says(data):
    return lambda handler, body: handler.answer(200, data)


def first_as(value):
    return changed(lambda scores: [scores[0] | {"score": value}, *scores[1:]])


def hang(handler, body):
    time.sleep(3)


def drip(handler, body):
    """Send a byte now and then: each alone is in time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def cut(handler, body):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.connection.shutdown(socket.SHUT_RDWR)


FAULTS = {
    "500": (status(500), "status 500: scripted"),
    "503": (status(503), "status 503: scripted"),
    "page": (lambda handler, body: handler.answer(502, b"<html>Bad gateway</html>"), "status 502: no explanation"),
    "hang": (hang, "no whole answer within 0.3 s"),
    "drip": (drip, "no whole answer within 0.3 s"),
    "cut": (cut, "cut off"),
    "not HTTP": (lambda handler, body: handler.wfile.write(b"hello\r\n"), "did not score"),
    "not JSON": (says(b"{"), "an answer that cannot be used"),
    "list": (says(b"[]"), "an answer that cannot be used"),
    "deep": (says(b"[" * 100_000), "an answer that cannot be used"),
    "NaN": (first_as(float("nan")), "scores.0.score: Input should be a finite number"),
    "infinity": (first_as(float("inf")), "finite number"),
    "text": (first_as("1.0"), "scores.0.score: Input should be a valid number"),
    "null": (first_as(None), "scores.0.score"),
    "boolean": (first_as(True), "scores.0.score"),
    "too few": (changed(lambda scores: scores[1:]), "without the scores of 1 of"),
    "none": (changed(lambda scores: []), "without the scores of"),
    "twice": (changed(lambda scores: [*scores, scores[0]]), "ids twice"),
    "foreign": (changed(lambda scores: [*scores, {"id": "x-0", "score": 1.0}]), "not asked for"),
}


def options_of(fault):
    return {"timeout": 0.3} if fault in ("hang", "drip") else {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_changes_no_score(fault, images):
    act, _ = FAULTS[fault]
    with ScriptedServer([act, act]) as server:
        assert scored(remote(server, **options_of(fault)), images) == expected(images)
        assert len(server.requests) >= 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_ends_the_call_and_names_server_sample_and_cause(fault, images):
    act, cause = FAULTS[fault]
    with ScriptedServer(otherwise=act) as server:
        reward = remote(server, retries=0, **options_of(fault))
        with pytest.raises(RewardError, match=cause) as raised:
            scored(reward, images)
        assert f"Reward 'remote:mean': {server.url} did not score sample " in str(raised.value)
        assert "prompt 'prompt " in str(raised.value)


def test_scores_in_another_order_are_put_right(images):
    with ScriptedServer(otherwise=changed(lambda scores: scores[::-1])) as server:
        assert scored(remote(server), images) == expected(images)
        assert len(server.requests) == 1


def test_a_server_that_is_killed_and_comes_back_costs_no_score(images):
    server = ScriptedServer()
    port = server.server_address[1]
    reward = remote(server, batch=1, retries=200)
    revived = []

    def killed(handler, body):
        handler.connection.shutdown(socket.SHUT_RDWR)
        threading.Thread(target=restart).start()

    def restart():
        server.stop()
        time.sleep(0.3)
        revived.append(ScriptedServer(port=port))

    server.script = [*[server.otherwise] * 2, killed]
    assert scored(reward, images) == expected(images)
    assert len(server.requests) >= 3
    assert revived[0].requests  # the rest came from the new one
    revived[0].stop()


def test_a_server_that_stays_away_is_named(images):
    with ScriptedServer() as server:
        reward, url = remote(server), server.url
    with pytest.raises(RewardError, match=f"{url} did not score sample 0 .*and 5 more.: no connection: .*refused"):
        scored(reward, images)


def test_other_servers_take_over(images):
    with ScriptedServer() as good, ScriptedServer() as gone:
        reward = remote(good, gone, batch=1, retries=20)
    with ScriptedServer(port=good.server_address[1]):
        assert scored(reward, images) == expected(images)


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(as_date, images):
    # A date has whole seconds: two from now is at least one.
    asked = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "0.7"
    with ScriptedServer([status(429, Retry_After=asked)]) as server:
        assert scored(remote(server, retries=0), images) == expected(images)
        first, second = server.times
        assert second - first >= 0.69


def test_a_server_that_stays_busy_ends_the_call(images):
    with ScriptedServer(otherwise=status(429, Retry_After="1000")) as server:
        with pytest.raises(RewardError, match="the server is busy and asks to wait 1000 s"):
            scored(remote(server), images)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("code", "message"), [(401, "refuses the token"), (404, "status 404: scripted"), (422, "422")])
def test_a_refusal_is_not_tried_again(code, message, images):
    with ScriptedServer(otherwise=status(code)) as server:
        with pytest.raises(RewardError, match=message):
            scored(remote(server), images)
        assert len(server.requests) == 1


def poisoned(index, act):
    """Do `act` when a sample is among those of a request."""

    def answer(handler, body):
        guilty = any(entry["prompt"] == f"prompt {index}" for entry in body["items"])
        (act if guilty else lambda handler, body: handler.scores(mean_levels(body)))(handler, body)

    return answer


@pytest.mark.parametrize("act", [status(500), cut])
def test_one_sample_that_no_server_can_score_is_found(act, images):
    with ScriptedServer(otherwise=poisoned(4, act)) as server:
        with pytest.raises(RewardError, match=r"did not score sample 4 \(of 6 in this call\), prompt 'prompt 4'"):
            scored(remote(server, retries=1), images)
        # 0..5 twice, then halves: 0 1 2 succeeds, 3 4 5 fails, 3 succeeds, 4 5 fails, 4 fails
        assert [len(ids) for ids in server.requests] == [6, 6, 3, 3, 1, 2, 1]


def test_a_request_that_is_too_large_is_halved_at_once(images):
    def small(handler, body):
        if len(body["items"]) > 2:
            status(413)(handler, body)
        else:
            handler.scores(mean_levels(body))

    with ScriptedServer(otherwise=small) as server:
        assert scored(remote(server), images) == expected(images)
        assert [len(ids) for ids in server.requests] == [6, 3, 1, 2, 3, 1, 2]


def test_only_the_samples_that_failed_are_tried_again(images):
    def partly(handler, body):
        failed, *good = mean_levels(body)
        identity = {"protocol": 1, "reward": "mean", "version": "1", "error": "one failed."}
        failures = [{"id": failed["id"], "error": "one failed."}]
        handler.answer(500, identity | {"scores": good, "failed": failures})

    with ScriptedServer([partly]) as server:
        assert scored(remote(server), images) == expected(images)
        assert [len(ids) for ids in server.requests] == [6, 1]


@pytest.mark.parametrize("change", [{"version": "2"}, {"reward": "other"}, {"protocol": 2}])
def test_another_reward_under_the_same_address_is_refused(change, images):
    with ScriptedServer(otherwise=lambda handler, body: handler.scores(mean_levels(body), **change)) as server:
        with pytest.raises(RewardError, match=r"must not be mixed|speaks protocol 2"):
            scored(remote(server), images)
        assert len(server.requests) == 1


def test_an_image_with_nan_is_named_and_not_sent(images):
    images[3, 0, 0, 0] = float("nan")
    with ScriptedServer() as server:
        with pytest.raises(RewardError, match=r"cannot score sample 3, prompt .*: the image holds NaN"):
            scored(remote(server), images)
        assert not server.requests


def test_metadata_that_cannot_travel_is_named(images):
    with ScriptedServer() as server, pytest.raises(RewardError, match=r"sample 0 .* cannot be sent: metadata\.when"):
        score(remote(server), Image(), images, PROMPTS, [{"when": np.zeros(3)}] * NUMBER)


def test_a_server_that_sends_us_elsewhere_is_not_followed(images):
    with ScriptedServer() as other, ScriptedServer(otherwise=status(307, Location=f"{other.url}/score")) as server:
        with pytest.raises(RewardError, match="refuses with status 307"):
            scored(remote(server), images)
        assert not other.requests


def test_no_try_is_begun_after_the_time_of_all_tries(images):
    with ScriptedServer(otherwise=status(500)) as server:
        with pytest.raises(RewardError, match="status 500"):
            scored(remote(server, batch=1, timeout=0.2, retries=4, backoff=2.0), images)
        assert len(server.requests) == 2  # the pause between them is a second at least


@pytest.fixture
def interrupts():
    """Let SIGINT interrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_a_call_at_once(images):
    with ScriptedServer(otherwise=hang) as server:
        reward = remote(server)
        main = threading.main_thread().ident
        threading.Timer(0.3, signal.pthread_kill, [main, signal.SIGINT]).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            scored(reward, images)
        assert time.monotonic() - start < 2


def test_a_call_works_where_an_event_loop_runs_already(images):
    async def notebook():
        return scored(remote(server), images)

    with ScriptedServer() as server:
        assert asyncio.run(notebook()) == expected(images)
