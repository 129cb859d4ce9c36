"""Scoring picture files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media import Image
from ddpo.rewards.contract import Array
from ddpo.rewards.scorer import Scorer
from ddpo.runtime.errors import PictureError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""What is taken from a folder."""
MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, about 8000 x 8000: a file of a few kB can claim to be far larger."""
_FORMATS = ("PNG", "JPEG", "WEBP")


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """Return the files among `paths` and, by name, the pictures in the folders among them.

    Raises PictureError for a path that does not exist and a folder without pictures.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())
            if not inside:
                raise PictureError(f"The folder {path} holds no pictures ({', '.join(SUFFIXES)}).")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise PictureError(f"There is no picture {path}.{nearest(path.name, siblings)}")
    return files


def score_pictures(scorer: Scorer, files: Sequence[Path], prompt: str, metadata: Mapping[str, Any]) -> dict[str, Array]:
    """Return the scores `(B,)` of files by the key of everything that is measured.

    One picture is in memory at a time, since they may differ in size. What a combined reward normalises is normalised
    over all of them.

    Raises PictureError for a file that cannot be read, RewardError when a required reward fails.
    """
    medium = Image()
    parts = [
        scorer.score(medium, read_picture(file), [prompt], [metadata], first_index=index)
        for index, file in enumerate(files)
    ]
    return scorer.combine(parts, [prompt] * len(files))


def read_picture(file: Path) -> Tensor:
    """Return a PNG, JPEG or WebP file as `(1, 3, H, W)` float32 in [0, 1], upright, transparency over white.

    Raises PictureError for a file that is none of these, is broken, moves, has more than 8 bits a channel, or has more
    than `MAX_PIXELS` pixels.
    """
    import torch
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            with Pillow.open(file, formats=_FORMATS) as image:
                _check(file, image)
                pixels_HWC = np.asarray(_upright_on_white(image))
    except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError):
        raise PictureError(_too_large(file)) from None
    except UnidentifiedImageError:
        raise PictureError(f"{file} is not a PNG, JPEG or WebP picture.") from None
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken files
        raise PictureError(f"{file} cannot be read as a picture: {error}.") from None
    return torch.from_numpy(pixels_HWC.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def _check(file: Path, image: Picture) -> None:
    """Refuse a picture by what its header says, before it is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(_too_large(file, f"{image.width} x {image.height} is "))
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a photo with further views inside
        raise PictureError(f"{file} is animated; give its pictures one by one.")
    if image.mode[0] in "IF":
        raise PictureError(f"{file} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits.")


def _upright_on_white(image: Picture) -> Picture:
    from PIL import Image as Pillow
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    coloured = upright.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


def _too_large(file: Path, size: str = "") -> str:
    return f"{file} is too large to decode: {size}more than {MAX_PIXELS:,} pixels; scale it down."
