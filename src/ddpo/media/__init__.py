"""One file per kind of sample: what a reward sees of it, what a report shows. Importing it is light: no torch."""

from ddpo.media.array import Array
from ddpo.media.image import Image
from ddpo.media.medium import Medium

__all__ = ["Array", "Image", "Medium"]
