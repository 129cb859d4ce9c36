"""What the README shows is what there is."""

from __future__ import annotations

import re
import shlex

import click
import pytest
import typer

from ddpo.cli.program import app
from ddpo.config import load_config

PLACEHOLDERS = {"RECIPE": "emoji-judge", "RUN": "runs/red", "path/to/my-model": "embedded"}


@pytest.fixture
def root(request):
    return request.config.rootpath


@pytest.fixture
def readme(root):
    return (root / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(root):
    """Return every `ddpo ...` of README and docs as words, without what it is combined with."""
    lines = []
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        lines += [line for block in blocks(page.read_text(), "sh") for line in block.splitlines()]
    found = [shlex.split(line.replace("\\|", "|"), comments=True) for line in lines if re.match(r"ddpo [a-z]", line)]
    return [[PLACEHOLDERS.get(word, word) for word in words[1:]] for words in found]


def test_every_command_is_one_that_the_program_takes(root):
    program = typer.main.get_command(app)
    for words in commands(root):
        command, words = program.get_command(None, words[0]), words[1:]
        while isinstance(command, click.Group):
            command, words = command.get_command(None, words[0]), words[1:]
        assert command is not None
        command.make_context("ddpo", list(words))


def test_every_train_command_is_a_valid_configuration(root, readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(root / "examples")
    (tmp_path / "my.txt").write_text("a cat\n")
    (tmp_path / "my.py").write_text(next(block for block in blocks(readme, "python") if "def redness" in block))
    (tmp_path / "red.yaml").write_text("extends: emoji-judge\n")
    trained = [words[1:] for words in commands(root) if words[0] == "train"]
    assert len(trained) >= 15
    for words in trained:
        words = [word for word in words if word not in ("--dry-run", "--resume")]
        if "--output" in words:
            del words[words.index("--output") : words.index("--output") + 2]
        source = words.pop(0) if words and "=" not in words[0] else None
        load_config(source, words)


def test_the_two_commands_are_in_the_makefile(root, readme):
    makefile = (root / "Makefile").read_text()
    for target in ("demo", "test", "check"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile


def test_links_lead_somewhere(root):
    for page in [root / "README.md", *(root / "docs").glob("*.md"), *(root / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
