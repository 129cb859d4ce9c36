"""`ddpo evaluate` as a user types it."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import pytest
from command_line import ddpo

from ddpo.cli.evaluate import evaluate
from ddpo.evaluation import comparison
from ddpo.runtime import files
from ddpo.runtime.errors import RunFolderError
from ddpo.training.run import train


@pytest.fixture
def run_folder(tiny_config) -> str:
    config = tiny_config(iterations=1, evaluation={"number": 1, "rewards": ["judge-recognition"]})
    return str(train(config).folder.path)


def test_a_run_is_compared_with_its_base(run_folder, tmp_path):
    output = tmp_path / "new" / "result.json"
    done = ddpo("evaluate", run_folder, "--seeds", "2", "--device", "cpu", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "3 prompts x 2 seeds = 6 samples" in done.stdout
    for text in ("base", "trained", "95 % interval", "negative JPEG size (kB)", "recognition", "diversity within"):
        assert text in done.stdout
    assert "trained model: 6 samples" in done.stderr
    record = json.loads(output.read_text())
    assert list(record["rewards"]) == ["jpeg-compressibility", "judge-recognition"]
    printed = ddpo("evaluate", run_folder, "--seeds", "2", "--device", "cpu", "--json")
    assert json.loads(printed.stdout) == record


def test_prompts_and_rewards_are_chosen(run_folder):
    prompts = ["--prompts", "{name: simple-animals, part: held-out}"]
    done = ddpo("evaluate", run_folder, *prompts, "--reward", "jpeg-incompressibility", "--seeds", "1", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["prompts"] == 15
    assert list(record["rewards"]) == ["jpeg-incompressibility"]


def test_a_model_alone_has_no_pairs(tiny_pipeline, tmp_path):
    (tmp_path / "my.txt").write_text("a house\n")
    done = ddpo("evaluate", str(tiny_pipeline()), "--prompts", str(tmp_path / "my.txt"), "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert "1 prompt x 1 seed = 1 sample" in done.stdout
    assert "trained" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "[a house]", "--reward", "judge"], "the prompt 'a house' names no animal that the judge knows"),
        (["--prompts", "simple-animal"], "Did you mean 'simple-animals'"),
        (["--prompts", "{name: simple"], "is not of the form"),
        (["--reward", "judg"], "Unknown reward 'judg'. Did you mean 'judge'?"),
        (["--device", "cuda:7"], "there is no 'cuda:7' here"),
        (["--output", "."], "is a folder"),
    ],
)
def test_mistakes_end_with_one_sentence_and_code_2(tiny_pipeline, arguments, message):
    done = ddpo("evaluate", str(tiny_pipeline()), "--seeds", "1", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.fixture
def sampled(monkeypatch) -> list[str]:
    """Let comparisons be made in no time; return what was compared."""
    asked: list[str] = []

    def compare(source, **_):
        asked.append(source)
        return SimpleNamespace(not_measured=[], record=lambda: {"source": source})

    monkeypatch.setattr(comparison, "compare", compare)
    return asked


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_sampled(sampled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"--output .*cannot be written: .*; give another file"):
        evaluate("embedded", output=tmp_path / "file" / "result.json")
    assert sampled == []


def test_a_result_that_cannot_be_written_after_all_is_printed(sampled, tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    with pytest.raises(RunFolderError, match="No space left on device; the result stands on stdout instead"):
        evaluate("embedded", output=tmp_path / "new" / "result.json")
    assert sampled == ["embedded"]
    assert json.loads(capsys.readouterr().out) == {"source": "embedded"}


def test_neither_a_run_nor_a_model():
    done = ddpo("evaluate", "./nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_help_has_an_example():
    assert "Example: ddpo evaluate" in ddpo("evaluate", "--help").stdout
