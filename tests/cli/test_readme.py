"""What the README shows is what there is."""

from __future__ import annotations

import re
import shlex

import pytest

from ddpo.config import load_config
from ddpo.rewards import load_reward


@pytest.fixture
def readme(request):
    return (request.config.rootpath / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_every_train_command_is_a_valid_configuration(readme, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(request.config.rootpath / "examples")
    (tmp_path / "my.txt").write_text("a cat\n")
    (tmp_path / "my.py").write_text(next(block for block in blocks(readme, "python") if "def redness" in block))
    commands = [line for block in blocks(readme, "sh") for line in block.splitlines() if line.startswith("ddpo train")]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command, comments=True)[2:]
        words = [word for word in words if word != "--dry-run"]
        if "--output" in words:
            del words[words.index("--output") : words.index("--output") + 2]
        source = words.pop(0) if words and "=" not in words[0] else None
        config = load_config(source, words)
        load_reward(config.reward)


def test_the_two_commands_are_in_the_makefile(readme, request):
    makefile = (request.config.rootpath / "Makefile").read_text()
    for target in ("demo", "test", "check"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile


def test_links_lead_somewhere(request):
    root = request.config.rootpath
    for page in [root / "README.md", *(root / "docs").glob("*.md"), *(root / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
