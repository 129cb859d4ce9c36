"""`ddpo reward score` and `ddpo list rewards` as a user types them."""

from __future__ import annotations

import json

import pytest
from command_line import ddpo
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my.py").write_text(
        "def width(images, prompts, metadata):\n    return [images.shape[3] * m.get('gain', len(p))"
        " for p, m in zip(prompts, metadata)]\n"
    )
    (tmp_path / "pictures").mkdir()
    for size in (4, 6):
        Image.new("RGB", (size, 5)).save(tmp_path / "pictures" / f"[red]{size}.png")
    return tmp_path


def test_a_table_with_a_row_a_picture_and_a_column_a_component(folder):
    spec = "{name: sum, rewards: [{name: 'my.py:width', weight: 2, clip: [null, 10]}]}"
    done = ddpo("reward", "score", spec, "pictures", "--prompt", "ab", folder=folder)
    assert done.returncode == 0, done.stderr
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines() if ".png" in line]
    # widths 4 and 6, times the two letters of the prompt: 8 and 12; clipped to 10, doubled
    assert rows == [["pictures/[red]4.png", "16.0000", "8.0000"], ["pictures/[red]6.png", "20.0000", "12.0000"]]
    assert "2 (width at most 10)" in done.stdout


def test_json_and_metadata(folder):
    done = ddpo(
        "reward", "score", "my.py:width", "pictures/[red]4.png", "--metadata", '{"gain": 0.5}', "--json", folder=folder
    )
    assert json.loads(done.stdout) == {
        "reward": "width",
        "labels": {"width": "width"},
        "prompt": "",
        "pictures": [{"file": "pictures/[red]4.png", "rewards": {"width": 2.0}}],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my.py:width", "pictures", "--metadata", "[1]"], "--metadata [1] is not a JSON object"),
        (["my.py:width", "pictures", "--metadata", "{a"], "--metadata is not JSON"),
        (["my.py:widht", "pictures"], "Did you mean 'width'?"),
        (["{juge: 1}", "pictures"], "Did you mean 'judge'?"),
        (["my.py:width", "my.py"], "my.py is not a PNG, JPEG or WebP picture."),
        (["judge", "pictures"], "names no animal that the judge knows"),
    ],
)
def test_mistakes_end_with_one_sentence_and_code_2(arguments, message, folder):
    done = ddpo("reward", "score", *arguments, folder=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_list_tells_where_weights_come_from_and_under_which_licence(folder):
    rewards = ddpo("list", "rewards", folder=folder).stdout.splitlines()
    lines = {line.split()[0]: line for line in rewards[1:]}
    assert lines["judge"].endswith("[weights: shipped with ddpo; MIT]")
    assert lines["jpeg-compressibility"].endswith("[no weights]")
