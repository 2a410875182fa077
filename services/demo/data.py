"""The demo's images: scikit-learn's digits, or an Omniglot folder. Train and test classes are disjoint."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from eif_engine.errors import InvalidInput

FLIPPED_SHARE = 0.1
DIGITS_TEST = ("3", "5", "7", "8", "9")
OMNIGLOT_TRAIN = ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
OMNIGLOT_TEST = ("Japanese_(katakana)", "Sanskrit", "Tagalog")


@dataclass(frozen=True, kw_only=True)
class DemoImage:
    """An image and the truth about it.

    Attributes:
        label: What the manifest says; wrong where it was flipped.
        true_label: What it shows. Only the demo knows it.
        png: The encoded image.
    """

    sample_id: str
    label: str
    true_label: str
    png: bytes

    @property
    def flipped(self) -> bool:
        """Whether its label is wrong."""
        return self.label != self.true_label


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """A class-disjoint split.

    Attributes:
        name: `digits` or `omniglot`.
        image_size: Side of the square that the network sees.
        dark_strokes: Whether images are dark on light.
    """

    name: str
    train: list[DemoImage]
    test: list[DemoImage]
    image_size: int
    dark_strokes: bool

    @property
    def flips(self) -> dict[str, str]:
        """The true label of every flipped training sample, by id."""
        return {image.sample_id: image.true_label for image in self.train if image.flipped}


def load(source: str, *, seed: int) -> DemoData:
    """Digits, or the Omniglot archives in a folder, with 10 % of the training labels flipped.

    Raises:
        InvalidInput: `source` is neither `digits` nor a folder with Omniglot's archives.
    """
    if source == "digits":
        images, test, size, dark = list(_digits()), DIGITS_TEST, 16, False
        is_test = [image.label in test for image in images]
        name = "digits"
    else:
        folder = Path(source)
        images = list(_omniglot(folder))
        is_test = [image.sample_id.startswith(tuple(f"{alphabet}/" for alphabet in OMNIGLOT_TEST)) for image in images]
        name, size, dark = "omniglot", 32, True
    train = [image for image, held_out in zip(images, is_test, strict=True) if not held_out]
    return DemoData(
        name=name,
        train=flip(train, share=FLIPPED_SHARE, seed=seed),
        test=[image for image, held_out in zip(images, is_test, strict=True) if held_out],
        image_size=size,
        dark_strokes=dark,
    )


def flip(images: list[DemoImage], *, share: float, seed: int) -> list[DemoImage]:
    """Give `share` of the images another label, drawn evenly from the other classes."""
    random = np.random.default_rng(seed)
    classes = sorted({image.label for image in images})
    flipped = list(images)
    for row in random.choice(len(images), size=round(share * len(images)), replace=False):
        image = images[row]
        others = [label for label in classes if label != image.true_label]
        flipped[row] = DemoImage(
            sample_id=image.sample_id, label=str(random.choice(others)), true_label=image.true_label, png=image.png
        )
    return flipped


def _digits() -> Iterator[DemoImage]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for row, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield DemoImage(sample_id=f"digit-{row:04d}", label=str(target), true_label=str(target), png=buffer.getvalue())


def _omniglot(folder: Path) -> Iterator[DemoImage]:
    """Images of the alphabets of the split, in order of their names; an alphabet in two archives is taken once."""
    found: dict[str, bytes] = {}
    for name, read in _files(folder):
        parts = name.split("/")
        if parts[-1].endswith(".png") and len(parts) >= 3 and parts[-3] in OMNIGLOT_TRAIN + OMNIGLOT_TEST:
            sample_id = "/".join(parts[-3:])
            if sample_id not in found:
                found[sample_id] = read()
    missing = {*OMNIGLOT_TRAIN, *OMNIGLOT_TEST} - {sample_id.split("/")[0] for sample_id in found}
    if missing:
        raise InvalidInput(
            f"{folder}: is neither `digits` nor a folder with Omniglot: expected omniglot_background_small1.zip and "
            f"_small2.zip, or their folders; no images of {', '.join(sorted(missing))}",
            uri=str(folder),
        )
    for sample_id, png in sorted(found.items()):
        label = sample_id.rpartition("/")[0]
        yield DemoImage(sample_id=sample_id, label=label, true_label=label, png=png)


def _files(folder: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for archive in sorted(folder.glob("*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                for name in opened.namelist():
                    yield name, partial(opened.read, name)
        except zipfile.BadZipFile as error:
            raise InvalidInput(f"{archive}: is not a zip archive ({error})", uri=str(archive)) from error
    for path in sorted(folder.rglob("*.png")):
        yield path.relative_to(folder).as_posix(), path.read_bytes
