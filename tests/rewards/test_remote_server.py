"""The server: typed answers, sentences instead of tracebacks, and alive after everything that is thrown at it."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest
from reward_servers import call, item, png, real_server

from ddpo.rewards import load_reward, to_uint8
from ddpo.rewards.server.application import version_of
from ddpo.rewards.server.batching import Sample, outcomes_of
from ddpo.rewards.server.run import check_packages, serve
from ddpo.runtime.errors import RewardError, ServingError


def level(images, prompts, metadata):
    """The level of the first pixel; what asks for a fault gets it."""
    for prompt in prompts:
        if prompt == "raise":
            raise ZeroDivisionError("the reward's own fault")
        if prompt == "exit":
            sys.exit(3)
    scores = to_uint8(images.numpy())[:, 0, 0, 0].astype(float)
    scores[[prompt == "nan" for prompt in prompts]] = np.nan
    return scores


@pytest.fixture(scope="module")
def url():
    with real_server(level, max_batch=16, max_pixels=10_000, max_body_bytes=1_000_000, body_seconds=0.5) as address:
        yield address


def picture(value):
    return png(np.full((4, 4, 3), value, np.uint8))


def is_alive(url):
    return call(f"{url}/score", {"items": [item("x", picture(7))]})[1]["scores"] == [{"id": "x", "score": 7.0}]


def test_what_a_client_can_ask(url):
    assert call(f"{url}/health") == (200, {"status": "ok"})
    status, info = call(f"{url}/info")
    assert (status, info["reward"], info["protocol"], info["max_items"]) == (200, "level", 1, 16)
    schema = call(f"{url}/openapi.json")[1]
    assert "ScoreRequest" in schema["components"]["schemas"]
    with urllib.request.urlopen(f"{url}/docs") as page:
        assert b"swagger" in page.read()


def test_scores_come_back_under_their_ids_whatever_the_sizes(url):
    sizes = [(4, 4), (8, 4), (4, 4), (2, 2)]
    items = [item(f"n{i}", png(np.full((*size, 3), 10 * i, np.uint8))) for i, size in enumerate(sizes)]
    status, answer = call(f"{url}/score", {"items": items})
    assert status == 200
    assert {entry["id"]: entry["score"] for entry in answer["scores"]} == {"n0": 0, "n1": 10, "n2": 20, "n3": 30}
    assert answer["reward"] == "level"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "Reward 'level' raised ZeroDivisionError: the reward's own fault"),
        ("nan", "Reward 'level' returned nan"),
        ("exit", "Reward 'level' raised SystemExit: 3"),
    ],
)
def test_a_reward_that_fails_is_an_error_of_exactly_the_items_concerned(url, fault, message):
    items = [item(f"n{i}", picture(i), prompt=fault if i in (2, 5) else "a cat") for i in range(7)]
    status, answer = call(f"{url}/score", {"items": items})
    assert status == 500
    assert message in answer["error"]
    assert [entry["id"] for entry in answer["failed"]] == ["n2", "n5"]
    assert {entry["id"]: entry["score"] for entry in answer["scores"]} == {f"n{i}": i for i in (0, 1, 3, 4, 6)}
    assert "Traceback" not in str(answer)
    assert is_alive(url)


def bomb():
    """Return a PNG of 20000 x 20000 black pixels, a few kilobytes."""
    rows = zlib.compress(bytes(1000 * 60_001), 9)  # 1000 of 20000 rows: enough for a decoder to start

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def base64_of(data):
    return base64.b64encode(data).decode()


NOISE = np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)
HOSTILE = {
    "truncated": (lambda: base64_of(base64.b64decode(png(NOISE))[:2000]), "cut short or damaged"),
    "header only": (lambda: base64_of(base64.b64decode(png())[:20]), "is not a PNG|cut short"),
    "bomb": (bomb, "pixels"),
    "a little too large": (lambda: png(size=(101, 100)), "101 x 100 pixels, more than the 10000 allowed"),
    "svg": (lambda: base64_of(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"), ""),
    "path": (lambda: "/etc/passwd", "not base64"),
    "path that is base64": (lambda: "/etc/ssl/foo", "is not a PNG"),
    "address": (lambda: "http://127.0.0.1/picture.png", "not base64"),
    "wrong base64": (lambda: "*" + png()[1:], "not base64"),
    "not ascii": (lambda: "é" * 8, "not base64"),
    "pickle": (lambda: base64_of(b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93."), "is not a PNG"),
    "jpeg": (lambda: base64_of(b"\xff\xd8\xff\xe0\x00\x10JFIF"), "is not a PNG"),
    "16 bits": (lambda: png(mode="I;16"), "8-bit RGB or grey"),
    "transparent": (lambda: png(mode="RGBA"), "without transparency"),
    "empty": (lambda: "", "is not a PNG"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_picture_is_refused_with_a_sentence(url, kind):
    build, message = HOSTILE[kind]
    status, answer = call(f"{url}/score", {"items": [item("good"), item("bad", build())]})
    assert status == 422
    assert answer["error"].startswith("Item 'bad': ")
    assert set(answer) == {"error"}
    assert re.search(message, answer["error"])
    assert is_alive(url)


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        ({"items": [item("a"), item("a")]}, 422, "same id"),
        ({"items": [item(str(i)) for i in range(17)]}, 413, "17 items, more than the 16 allowed"),
        ({"items": []}, 422, "items: List should have at least 1 item"),
        ({"items": [item(7)]}, 422, "items.0.id: Input should be a valid string"),
        ({"items": [item(prompt=None)]}, 422, "items.0.prompt"),
        ({"items": [item(promt="x")]}, 422, "items.0.promt: Extra inputs"),
        ({"items": [item(metadata=[1])]}, 422, "items.0.metadata"),
        ({"itmes": []}, 422, "items: Field required"),
        (b'{"items": [{"id": "\\ud800", "image": "", "prompt": ""}]}', 422, ""),
        (b"{", 422, "JSON decode error"),
        (b"\xff\xfe", 422, ""),
        (b"[" * 100_000, 400, ""),
        (b"1" * 10_000, 400, ""),
        (b"\x80\x04\x95", 400, ""),
        (b"x" * 1_100_000, 413, "larger than the 1 MB allowed"),
        (b"x" * 3_000_000, 413, "larger than the 1 MB allowed"),
        (b"", 422, ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_malformed_requests_are_refused_with_a_sentence(url, payload, status, message):
    given, answer = call(f"{url}/score", payload)
    assert given == status
    assert message in answer["error"]
    assert "Traceback" not in str(answer)
    assert is_alive(url)


def test_a_request_far_above_the_limit_is_not_read_to_its_end(url):
    with contextlib.suppress(urllib.error.URLError):  # it answers and closes while we still send
        assert call(f"{url}/score", b"x" * 50_000_000)[0] == 413
    assert is_alive(url)


def test_a_request_that_never_ends_is_cut_off(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in connection.recv(1000)
    assert is_alive(url)


def test_other_paths_and_methods_are_sentences(url):
    assert call(f"{url}/nothing") == (404, {"error": "Not Found"})
    assert call(f"{url}/score")[0] == 405


def test_without_the_token_nothing_is_read():
    with real_server(level, token="sesame") as url:
        for wrong in (None, "sesam", "sesame "[:-2], "séance"):
            status, answer = call(f"{url}/score", {"items": [item()]}, token=wrong and wrong.encode().decode("latin-1"))
            assert status == 401
            assert "Authorization: Bearer TOKEN" in answer["error"]
        assert call(f"{url}/score", {"items": [item()]}, token="sesame")[0] == 200
        assert call(f"{url}/health")[0] == 200
        assert call(f"{url}/info")[0] == 401


def test_concurrent_clients_get_their_own_scores_from_shared_batches():
    sizes = []

    def counted(images, prompts, metadata):
        sizes.append(len(images))
        time.sleep(0.002)
        return level(images, prompts, metadata)

    wrong, done, end = [], [], time.monotonic() + 1.5

    def client(number):
        count = 0
        while time.monotonic() < end:
            values = [(number * 16 + count + place) % 256 for place in range(3)]
            items = [item(f"{number}-{count}-{place}", picture(value)) for place, value in enumerate(values)]
            status, answer = call(f"{url}/score", {"items": items})
            got = [(entry["id"], entry["score"]) for entry in answer.get("scores", [])]
            expected = [(entry["id"], float(value)) for entry, value in zip(items, values, strict=True)]
            if status != 200 or got != expected:
                wrong.append((status, answer))
            count += 1
        done.append(count)

    with real_server(counted, max_batch=16) as url:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(done) == 16
    assert min(done) >= 1
    assert max(sizes) > 3  # more than one request holds
    assert max(sizes) <= 16
    assert sum(sizes) == 3 * sum(done)


def test_a_full_queue_asks_clients_to_come_back():
    free, running = threading.Event(), threading.Event()

    def slow(images, prompts, metadata):
        running.set()
        free.wait(30)
        return np.zeros(len(images))

    with real_server(slow, waiting_samples=2) as url:
        body = {"items": [item("a"), item("b")]}
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(call(f"{url}/score", body))) for _ in range(2)]
        threads[0].start()
        assert running.wait(30)
        threads[1].start()
        time.sleep(0.5)  # it waits now behind the first
        status, answer = call(f"{url}/score", body)
        free.set()
        for thread in threads:
            thread.join()
    assert (status, answer) == (429, {"error": "Too many samples wait already: come back after a second."})
    assert [status for status, _ in answers] == [200, 200]


def test_a_failing_batch_is_halved_only_where_it_fails():
    calls = []

    def counted(images, prompts, metadata):
        calls.append(len(prompts))
        return level(images, prompts, metadata)

    samples = [Sample(np.full((2, 2, 3), i, np.uint8), "raise" if i == 6 else "a cat", {}) for i in range(8)]
    outcomes = outcomes_of(load_reward(counted), samples)
    assert isinstance(outcomes[6], RewardError)
    assert [outcome for i, outcome in enumerate(outcomes) if i != 6] == [0, 1, 2, 3, 4, 5, 7]
    assert calls == [8, 4, 4, 2, 2, 1, 1]


def test_the_version_tells_rewards_apart(tmp_path):
    def version(spec):
        return version_of(load_reward(spec))

    assert version("judge") == version("jpeg-compressibility")
    assert version({"name": "jpeg-compressibility", "quality": 80}) != version("jpeg-compressibility")
    file = tmp_path / "my.py"
    file.write_text("def f(images, prompts, metadata):\n    return [0.0] * len(prompts)\n")
    before = version(f"{file}:f")
    assert before == version(f"{file}:f")
    file.write_text("def f(images, prompts, metadata):\n    return [1.0] * len(prompts)\n")
    assert version(f"{file}:f") != before


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr("ddpo.rewards.server.run.find_spec", lambda package: None)
    with pytest.raises(ServingError, match=r"needs fastapi and uvicorn, .*pip install -e '\.\[serve\]'"):
        check_packages()


def test_an_address_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"Cannot listen at 127.0.0.1:{port}: .*choose another --port"):
            serve(load_reward("judge"), host="127.0.0.1", port=port)


def test_the_command_serves_until_it_is_stopped():
    command = [sys.executable, "-m", "ddpo", "reward", "serve", "{name: jpeg-compressibility, quality: 80}", "--port=0"]
    environment = os.environ | {"DDPO_REWARD_TOKEN": "sesame", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("Serving 'jpeg-compressibility' at http://127.0.0.1:")
            url = line.split(" at ")[1].split()[0]
            assert call(f"{url}/info", token="sesame")[1]["label"] == "negative JPEG size (kB)"
            assert call(f"{url}/info")[0] == 401
            server.send_signal(signal.SIGINT)
            assert server.wait(60) in (0, 130)
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()
