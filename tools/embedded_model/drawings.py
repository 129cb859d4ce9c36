"""Gather the drawings: npm packages -> 96x96 RGBA pictures with a noun, a source set and a weight each.

Rasterising once keeps the later stages free of SVG. The result is one file in the cache folder, `drawings.npz`, small
enough to travel to a machine without network: the pictures as WebP bytes, one after the other, where each ends, and
the records as JSON.
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

import numpy as np
from nouns import ANIMAL_OF_NAME, ANIMALS, DROPPED, OTHER_CHAPTERS, OTHER_REFUSED_WORDS, SILHOUETTE_SUFFIXES
from numpy.typing import NDArray
from PIL import Image

SIZE = 96
# Source set -> npm package and the version that the shipped model was trained from.
ICON_SETS = {
    "noto": "1.2.9",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "twemoji": "1.2.5",
    "emojione": "1.2.3",
    "streamline-emojis": "1.2.4",
    "noto-v1": "1.2.5",
    "fxemoji": "1.2.2",
    "game-icons": "1.2.4",
    "mdi": "1.2.3",
    "ph": "1.2.2",
}
# Only the gold judge sees these whole sets: neither the generator nor the first judge does.
GOLD_SOURCES = ("noto-v1", "fxemoji", "game-icons", "mdi", "ph")
SILHOUETTES = ("game-icons", "mdi", "ph")  # drawn in one colour, another one each time
# How often a drawing of a set is chosen among those of its noun. An animation is one drawing in many poses.
SOURCE_WEIGHTS = {
    "fluent-emoji-anim": 4.0, "fluent-emoji-3d": 2.0, "fluent-emoji": 2.0, "noto": 1.5, "emojione": 0.7,
    "streamline-emojis": 0.3,
}  # fmt: skip
GENERATOR_SOURCES = (*(name for name in ICON_SETS if name not in GOLD_SOURCES), "fluent-emoji-3d", "fluent-emoji-anim")
PACKAGES = {
    **{f"@iconify-json/{name}": version for name, version in ICON_SETS.items()},
    "@lobehub/fluent-emoji-3d": "1.1.0",
    **{f"@lobehub/fluent-emoji-anim-{part}": "1.0.0" for part in (1, 2, 3, 4)},
}
FRAMES_PER_ANIMATION = 24
WEBP_QUALITY = 90


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
        suffixes = SILHOUETTE_SUFFIXES if source in SILHOUETTES else ()
        icons = json.loads((packages / "@iconify-json" / source / "icons.json").read_text())
        for name, icon in icons["icons"].items():
            plain = _plain(name)
            for suffix in suffixes:
                plain = plain.removesuffix(suffix)
            noun = _noun(plain, wanted, squashed)
            if noun is None or icon.get("hidden") or (source, name) in DROPPED:
                continue
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
            yield Record(noun, source, name, SOURCE_WEIGHTS.get(source, 1.0)), svg.replace("currentColor", "#fff")


def _rasterise(job: tuple[Record, str]) -> tuple[Record, NDArray[np.uint8]] | None:
    import cairosvg

    record, svg = job
    try:
        png = cairosvg.svg2png(bytestring=svg.encode(), output_width=2 * SIZE, output_height=2 * SIZE)
    except Exception:  # a handful of bodies use features that cairosvg lacks
        return None
    return record, fit(Image.open(io.BytesIO(png)))


def _3d_jobs(packages: Path, wanted: set[str], codes: dict[str, str]) -> Iterator[tuple[Record, Path]]:
    source = "fluent-emoji-3d"
    for path in sorted((packages / "@lobehub" / source / "assets").glob("*.webp")):
        noun = _noun(codes.get(path.stem, ""), wanted, {})
        if noun is not None:
            yield Record(noun, source, path.stem, SOURCE_WEIGHTS[source]), path


def _animation_jobs(packages: Path, codes: dict[str, str]) -> Iterator[tuple[Record, Path]]:
    source = "fluent-emoji-anim"
    for part in (1, 2, 3, 4):
        for path in sorted((packages / "@lobehub" / f"{source}-{part}" / "assets").glob("*.webp")):
            animal = ANIMAL_OF_NAME.get(codes.get(path.stem, ""))
            if animal is not None:
                yield Record(animal, source, path.stem, SOURCE_WEIGHTS[source]), path


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
    """Fetch, rasterise and write `drawings.npz`."""
    packages = fetch_packages(cache)
    wanted, codes = _catalogue(packages)
    with Pool(workers) as pool:
        found = [item for item in pool.imap(_rasterise, list(_svg_jobs(packages, wanted)), 64) if item is not None]
        files = [*_3d_jobs(packages, wanted, codes), *_animation_jobs(packages, codes)]
        found += [item for items in pool.imap(_open_frames, files, 8) for item in items]
    found = [item for item in found if item[1][..., 3].any()]
    files_bytes = [_as_webp(picture) for _, picture in found]
    np.savez(
        cache / "drawings.npz",
        webp=np.frombuffer(b"".join(files_bytes), np.uint8),
        ends=np.cumsum([len(part) for part in files_bytes]),
        records=np.frombuffer(json.dumps([asdict(record) for record, _ in found]).encode(), np.uint8),
    )
    print(summary([record for record, _ in found]))


def _as_webp(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=WEBP_QUALITY, alpha_quality=WEBP_QUALITY)
    return buffer.getvalue()


def load_records(cache: Path) -> list[Record]:
    with np.load(cache / "drawings.npz") as file:
        return [Record(**record) for record in json.loads(file["records"].tobytes())]


def load(cache: Path, sources: tuple[str, ...]) -> tuple[NDArray[np.uint8], list[Record]]:
    """Drawings (N, 96, 96, 4), straight alpha, and records of these sources."""
    records = load_records(cache)
    with np.load(cache / "drawings.npz") as file:
        webp, ends = file["webp"], file["ends"]
    kept = [i for i, record in enumerate(records) if record.source in sources]
    pictures = np.empty((len(kept), SIZE, SIZE, 4), np.uint8)
    for row, i in enumerate(kept):
        part = webp[ends[i - 1] if i else 0 : ends[i]].tobytes()
        pictures[row] = np.asarray(Image.open(io.BytesIO(part)).convert("RGBA"))
    return pictures, [records[i] for i in kept]


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
