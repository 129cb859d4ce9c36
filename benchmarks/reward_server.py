"""Measure a reward server under many concurrent clients on this machine: throughput, latency, and right answers.

python benchmarks/reward_server.py --machine xeon-2-cores --date 2026-01-31
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpo.media import Image
from ddpo.rewards import load_reward, score
from ddpo.rewards.remote.pictures import to_png
from ddpo.rewards.remote.protocol import ScoreItem, ScoreRequest

HERE = Path(__file__).parent
PERCENTILES = (50, 90, 99)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="jpeg-compressibility")
    parser.add_argument("--clients", type=int, default=64, help="requests at a time")
    parser.add_argument("--items", type=int, default=8, help="samples in a request")
    parser.add_argument("--pixels", type=int, default=64, help="height and width of a sample")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--machine", default="unnamed", help="kind of machine, for the name of the result")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="for the name of the result")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def served(reward: str) -> Iterator[int]:
    """Serve a reward in a process of its own; yields its port."""
    command = [sys.executable, "-m", "ddpo", "reward", "serve", reward, "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment.pop("DDPO_REWARD_TOKEN", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise SystemExit("the server did not start")
            yield int(line.split(" at ")[1].split()[0].rpartition(":")[2])
        finally:
            server.terminate()


@dataclass(frozen=True)
class Request:
    """What a client sends, and what must come back."""

    body: bytes
    scores: dict[str, float]
    """By the items' ids, which no other client uses."""

    def problem(self, answer: bytes) -> str:
        """Return what is wrong with an answer, empty when nothing is."""
        entries = json.loads(answer)["scores"]
        given = {entry["id"]: entry["score"] for entry in entries}
        if given.keys() != self.scores.keys() or len(entries) != len(given):
            return "other ids than were sent"
        # A network's last digits depend on what shares its batch; another picture's score differs by far more.
        same = all(math.isclose(given[name], self.scores[name], rel_tol=1e-5, abs_tol=1e-6) for name in given)
        return "" if same else "scores of other samples"


def request(reward: str, items: int, pixels: int, number: int) -> Request:
    """Return a client's request, with pictures that are neither plain nor noise, and the scores they have here."""
    random = np.random.default_rng(number)
    blocks = random.integers(0, 256, (items, pixels // 8, pixels // 8, 3), np.uint8)
    pictures = blocks.repeat(8, axis=1).repeat(8, axis=2)
    prompt, metadata = "a cat", {"animal": "cat"}
    entries = [
        ScoreItem(id=f"{number}-{index}", image=to_png(picture), prompt=prompt, metadata=metadata)
        for index, picture in enumerate(pictures)
    ]
    images = torch.from_numpy(pictures.transpose(0, 3, 1, 2) / np.float32(255))
    expected = score(load_reward(reward), Image(), images, [prompt] * items, [metadata] * items)
    scores = {entry.id: float(value) for entry, value in zip(entries, expected, strict=True)}
    return Request(ScoreRequest(items=entries).model_dump_json().encode(), scores)


def client(port: int, sent: Request, end: float, seconds: list[float], failures: list[str]) -> None:
    """Send the request again and again on one connection; note how long each took and what was wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while (start := time.perf_counter()) < end:
        try:
            connection.request("POST", "/score", sent.body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            failures.append(type(error).__name__)
            connection.close()
            continue
        took = time.perf_counter() - start
        if problem := sent.problem(answer) if response.status == 200 else f"status {response.status}":
            failures.append(problem)
        else:
            seconds.append(took)
    connection.close()


def measure(port: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return throughput, latency and failures of all clients together."""
    requests = [request(chosen.reward, chosen.items, chosen.pixels, number) for number in range(chosen.clients)]
    latencies, failures = [list[float]() for _ in requests], list[str]()
    client(port, requests[0], time.perf_counter() + 0.5, [], [])  # the first requests load what is loaded late
    start = time.perf_counter()
    threads = [
        threading.Thread(target=client, args=(port, sent, start + chosen.seconds, own, failures))
        for sent, own in zip(requests, latencies, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    every = np.concatenate([np.asarray(own) for own in latencies])
    return {
        "seconds": took,
        "requests": len(every),
        "samples_per_second": len(every) * chosen.items / took,
        "latency_ms": {f"p{p}": float(1000 * np.percentile(every, p)) for p in PERCENTILES} if len(every) else {},
        "fewest_requests_of_a_client": min(map(len, latencies)),
        "failures": {kind: failures.count(kind) for kind in sorted(set(failures))},
    }


def main(arguments: Sequence[str]) -> None:
    chosen = options(arguments)
    settings = {name: getattr(chosen, name) for name in ("reward", "clients", "items", "pixels", "machine", "date")}
    load = os.getloadavg()[0]  # of other programs: clients and server have not begun
    with served(chosen.reward) as port:
        result = settings | {"cores": os.cpu_count(), "processor": platform.machine(), "load_before": load}
        result |= measure(port, chosen)
    chosen.output.mkdir(parents=True, exist_ok=True)
    target = chosen.output / f"{chosen.date}-{chosen.machine}-reward-server.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(target.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
