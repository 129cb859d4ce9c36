"""Gather the drawings: npm packages -> 96x96 RGBA pictures with a noun, a source set and a weight each.

Rasterising once keeps the later stages free of SVG. The result is two files in the cache folder:
`drawings.npy` (N, 96, 96, 4) uint8, straight alpha, and `drawings.json`, one record a drawing.
"""

import io
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from nouns import ANIMAL_OF_NAME, ANIMALS, DROPPED, OTHER_CHAPTERS, OTHER_REFUSED_WORDS
from numpy.typing import NDArray
from PIL import Image

SIZE = 96
# Source set -> npm package and the version that the shipped model was trained from.
ICON_SETS = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "fxemoji": "1.2.2",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "twemoji": "1.2.5",
    "emojione": "1.2.3",
    "streamline-emojis": "1.2.4",
}
PACKAGES = {
    **{f"@iconify-json/{name}": version for name, version in ICON_SETS.items()},
    "@lobehub/fluent-emoji-3d": "1.1.0",
    **{f"@lobehub/fluent-emoji-anim-{part}": "1.0.0" for part in (1, 2, 3, 4)},
}
FRAMES_PER_ANIMATION = 40
# An animation is one drawing in many poses: together its frames weigh as much as this many drawings.
ANIMATION_WEIGHT = 2.5


@dataclass(frozen=True)
class Record:
    """One drawing: what it shows, where it comes from, how often to draw it within its noun."""

    noun: str
    source: str
    name: str
    weight: float

    @property
    def label(self) -> int:
        """The judge's class: the animal's index, or len(ANIMALS) for everything else."""
        return ANIMALS.index(self.noun) if self.noun in ANIMALS else len(ANIMALS)


def fetch_packages(cache: Path) -> Path:
    """Install the npm packages into the cache (no scripts are run) and return their folder."""
    packages = cache / "node_modules"
    if not all((packages / name).exists() for name in PACKAGES):
        cache.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
        subprocess.run(["npm", "install", "--ignore-scripts", "--no-save", "--prefix", str(cache), *wanted], check=True)
    return packages


def _catalogue(packages: Path) -> tuple[set[str], dict[str, str]]:
    """Names of the wanted other nouns, and the noun of each emoji code point (from noto's metadata)."""
    folder = packages / "@iconify-json" / "noto"
    chapters = json.loads((folder / "metadata.json").read_text())["categories"]
    wanted = {_plain(name) for chapter in OTHER_CHAPTERS for name in chapters[chapter]}
    codes = json.loads((folder / "chars.json").read_text())
    return {name for name in wanted if _is_plain_noun(name)}, {code: _plain(name) for code, name in codes.items()}


def _plain(name: str) -> str:
    """ "bird-2" -> "bird": hyphens to spaces, trailing numbers dropped."""
    return re.sub(r"-\d+$", "", name).replace("-", " ")


def _is_plain_noun(name: str) -> bool:
    words = name.split()
    return len(words) <= 3 and name.isascii() and not OTHER_REFUSED_WORDS.intersection(words)


def _noun(name: str, wanted: set[str], squashed: dict[str, str]) -> str | None:
    """The noun a drawing is captioned with; None when the drawing is not used."""
    if name in ANIMAL_OF_NAME:
        return ANIMAL_OF_NAME[name]
    if name in wanted:
        return name
    return squashed.get(name)


def _svg_jobs(packages: Path, wanted: set[str]) -> Iterator[tuple[Record, str]]:
    squashed = {name.replace(" ", ""): name for name in wanted}
    for source in ICON_SETS:
        icons = json.loads((packages / "@iconify-json" / source / "icons.json").read_text())
        for name, icon in icons["icons"].items():
            noun = _noun(_plain(name), wanted, squashed)
            if noun is None or icon.get("hidden") or (source, name) in DROPPED:
                continue
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
            yield Record(noun, source, name, 1.0), svg


def _rasterise(job: tuple[Record, str]) -> tuple[Record, NDArray[np.uint8]] | None:
    import cairosvg

    record, svg = job
    try:
        png = cairosvg.svg2png(bytestring=svg.encode(), output_width=2 * SIZE, output_height=2 * SIZE)
    except Exception:  # a handful of bodies use features that cairosvg lacks
        return None
    return record, fit(Image.open(io.BytesIO(png)))


def _3d_jobs(packages: Path, wanted: set[str], codes: dict[str, str]) -> Iterator[tuple[Record, Path]]:
    for path in sorted((packages / "@lobehub" / "fluent-emoji-3d" / "assets").glob("*.webp")):
        noun = _noun(codes.get(path.stem, ""), wanted, {})
        if noun is not None:
            yield Record(noun, "fluent-emoji-3d", path.stem, 1.0), path


def _animation_jobs(packages: Path, codes: dict[str, str]) -> Iterator[tuple[Record, Path]]:
    for part in (1, 2, 3, 4):
        for path in sorted((packages / "@lobehub" / f"fluent-emoji-anim-{part}" / "assets").glob("*.webp")):
            animal = ANIMAL_OF_NAME.get(codes.get(path.stem, ""))
            if animal is not None:
                yield Record(animal, "fluent-emoji-anim", path.stem, ANIMATION_WEIGHT), path


def _open_frames(job: tuple[Record, Path]) -> list[tuple[Record, NDArray[np.uint8]]]:
    """One picture, or up to FRAMES_PER_ANIMATION distinct frames spread over an animation."""
    record, path = job
    image = Image.open(path)
    count = getattr(image, "n_frames", 1)
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(count, FRAMES_PER_ANIMATION))})
    frames: dict[bytes, NDArray[np.uint8]] = {}
    for index in chosen:
        image.seek(index)
        picture = fit(image.convert("RGBA"))
        frames.setdefault((picture // 8).tobytes(), picture)
    weight = record.weight / len(frames)
    return [(Record(record.noun, record.source, record.name, weight), picture) for picture in frames.values()]


def fit(image: Image.Image) -> NDArray[np.uint8]:
    """Crop to the drawing, centre it on a square and scale it to SIZE: every set fills its frame alike."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox() or (0, 0, *image.size)
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BOX if side > SIZE else Image.Resampling.BICUBIC))


def gather(cache: Path, workers: int) -> None:
    """Fetch, rasterise and write `drawings.npy` and `drawings.json`."""
    packages = fetch_packages(cache)
    wanted, codes = _catalogue(packages)
    with Pool(workers) as pool:
        found = [item for item in pool.imap(_rasterise, list(_svg_jobs(packages, wanted)), 64) if item is not None]
        files = [*_3d_jobs(packages, wanted, codes), *_animation_jobs(packages, codes)]
        found += [item for items in pool.imap(_open_frames, files, 8) for item in items]
    found = [item for item in found if item[1][..., 3].any()]
    np.save(cache / "drawings.npy", np.stack([picture for _, picture in found]))
    (cache / "drawings.json").write_text(json.dumps([asdict(record) for record, _ in found]))
    print(summary([record for record, _ in found]))


def load(cache: Path) -> tuple[NDArray[np.uint8], list[Record]]:
    records: list[dict[str, Any]] = json.loads((cache / "drawings.json").read_text())
    return np.load(cache / "drawings.npy", mmap_mode="r"), [Record(**record) for record in records]


def summary(records: list[Record]) -> str:
    """Drawings an animal (animations counted once), drawings a source, number of other nouns."""
    drawings = {(r.noun, r.source, r.name) for r in records}
    animals = Counter(noun for noun, *_ in drawings if noun in ANIMALS)
    sources = Counter(source for _, source, _ in drawings)
    others = {noun for noun, *_ in drawings if noun not in ANIMALS}
    return (
        f"{len(records)} pictures of {len(drawings)} drawings; animals {sum(animals.values())}: {dict(animals)}; "
        f"{len(others)} other nouns; sources {dict(sources)}"
    )
