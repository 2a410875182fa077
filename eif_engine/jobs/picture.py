"""An explanation as a picture: two images side by side, links between their parts, heat, and what it all adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.jobs.explain import Explanation, Link
from eif_engine.jobs.picture_marks import LINK_COLORS, Array, Grid, draw_links, font, heat, shown_links

TILE, GAP, MARGIN = 440, 200, 40
WIDTH = 2 * (MARGIN + TILE) + GAP
SECOND = MARGIN + TILE + GAP
HEAT_TILE, GROUP_TILE, BESIDE = 255, 125, 6
SHOWN_GROUPS, GROUPS_A_ROW = 12, 4
INK, FAINT, FRAME, PAPER = (28, 32, 38), (98, 106, 116), (214, 218, 224), (255, 255, 255)
MAX_TEXT = 60
MAX_LENGTH = 2400

Pair = tuple[Image.Image, Image.Image]


@dataclass(frozen=True)
class Subject:
    """One of the two images.

    Attributes:
        image: As `decode_image` returns it.
        sample_id: Its id.
        label: Its label; may be empty.
    """

    image: Image.Image
    sample_id: str
    label: str = ""


def draw_explanation(explanation: Explanation, first: Subject, second: Subject, preprocessing: Preprocessing) -> bytes:
    """The picture of `explanation_picture` as PNG; the same explanation gives the same bytes."""
    buffer = BytesIO()
    explanation_picture(explanation, first, second, preprocessing).save(buffer, "PNG")
    return buffer.getvalue()


def explanation_picture(
    explanation: Explanation, first: Subject, second: Subject, preprocessing: Preprocessing
) -> Image.Image:
    """The picture, for those who want it in another format or size.

    Args:
        explanation: Of the pair.
        first: The first image.
        second: The second image.
        preprocessing: Tells which part of them the network sees.
    """
    picture = _Picture(explanation, preprocessing)
    picture.heading(first, second)
    one, other = _seen(first.image, preprocessing), _seen(second.image, preprocessing)
    picture.linked(one, other)
    picture.heated(one, other)
    picture.grouped(one, other)
    return picture.finished()


def _seen(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """What the network sees of an image, in the resolution of the image itself."""
    _, height, width = preprocessing.output_shape
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    box = preprocessing.seen_box(image.width, image.height)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box)


class _Picture:
    """A sheet that is filled from the top; it is cut to its length at the end."""

    def __init__(self, explanation: Explanation, preprocessing: Preprocessing) -> None:
        self._explained = explanation
        _, height, width = preprocessing.output_shape
        self._tile_height = max(1, round(height * TILE / max(height, width)))
        self._sheet = Image.new("RGB", (WIDTH, MAX_LENGTH), PAPER)
        self._draw = ImageDraw.Draw(self._sheet)
        self._y = MARGIN

    def heading(self, first: Subject, second: Subject) -> None:
        """Both images by label and id, and the two similarities."""
        for left, subject in ((MARGIN, first), (SECOND, second)):
            self._text(left, self._y, subject.label or subject.sample_id, 30, limit=TILE)
            if subject.label:
                self._text(left, self._y + 38, subject.sample_id, 20, fill=FAINT, limit=TILE)
        middle, explained = MARGIN + TILE + GAP // 2, self._explained
        self._centered(middle, self._y, f"cosine {explained.similarity:.3f}", 28)
        self._centered(middle, self._y + 38, f"matched {explained.matched_similarity:.3f}", 20, fill=FAINT)
        self._y += 78

    def linked(self, first: Image.Image, second: Image.Image) -> None:
        """The images, the strongest links between their parts, and a line on each."""
        explained = self._explained
        one, other = self._paste(first, MARGIN), self._paste(second, SECOND)
        shown = shown_links(explained)
        draw_links(self._sheet, one, other, shown)
        self._y += self._tile_height + 24
        title = f"The strongest links; all pairs of parts sum to {explained.matched_similarity:.3f}"
        self._text(MARGIN, self._y, title, 24)
        self._y += 38
        for number, (link, color) in enumerate(zip(shown, LINK_COLORS, strict=False), start=1):
            self._described(number, link, color)
        self._y += 20

    def heated(self, first: Image.Image, second: Image.Image) -> None:
        """What each part adds to the similarity of the matching, and to the model's own."""
        explained = self._explained
        sums = [(explained.contribution_UV, f"Parts of the matched similarity {explained.matched_similarity:.3f}")]
        if explained.added_UV is not None:
            sums.append((explained.added_UV, f"Parts of the model's cosine {explained.similarity:.3f}"))
        for (sums_UV, title), left in zip(sums, (MARGIN, WIDTH - MARGIN - 2 * HEAT_TILE - BESIDE), strict=False):
            self._text(left, self._y, title, 24)
            sides = (sums_UV.sum(1), sums_UV.sum(0))
            strongest = max(float(np.abs(side).max()) for side in sides)
            height = self._pair_of_tiles(
                (first, second), sides, (left, self._y + 38), size=HEAT_TILE, strongest=strongest
            )
            self._scale(left, self._y + height + 48, strongest, min(float(side.min()) for side in sides))
        self._y += height + 112

    def grouped(self, first: Image.Image, second: Image.Image) -> None:
        """Where each attention group looks, and its share; those with the largest shares first."""
        shares = self._explained.group_shares
        if not shares or not self._explained.attention.shape[1]:
            return
        order = sorted(range(len(shares)), key=lambda group: -abs(shares[group]))[:SHOWN_GROUPS]
        cosine = self._explained.similarity
        more = f", the largest {len(order)} of {len(shares)}" if len(order) < len(shares) else ""
        self._text(MARGIN, self._y, f"Attention groups and their shares in the model's cosine {cosine:.3f}{more}", 24)
        self._y += 42
        step = (WIDTH - 2 * MARGIN + 20) // GROUPS_A_ROW
        for start in range(0, len(order), GROUPS_A_ROW):
            for place, group in enumerate(order[start : start + GROUPS_A_ROW]):
                height = self._group(group, MARGIN + place * step, (first, second))
            self._y += height + 48

    def finished(self) -> Image.Image:
        """Cut to what was drawn."""
        return self._sheet.crop((0, 0, WIDTH, self._y + MARGIN // 2))

    def _described(self, number: int, link: Link, color: tuple[int, int, int]) -> None:
        matched = self._explained.matched_similarity
        share = f" ({link.contribution / matched:.1%})" if matched > 0 else ""
        self._draw.ellipse((MARGIN, self._y, MARGIN + 24, self._y + 24), fill=color)
        self._draw.text((MARGIN + 12, self._y + 12), str(number), font=font(16), fill=PAPER, anchor="mm")
        self._text(MARGIN + 40, self._y, f"{self._place(link.part)} to {self._place(link.neighbor_part)}", 20)
        self._text(SECOND - 130, self._y, f"{link.contribution:+.4f}{share}", 20)
        self._text(SECOND + 90, self._y, f"cosine {link.similarity:.2f}, flow {link.flow:.4f}", 20, fill=FAINT)
        self._y += 32

    def _pair_of_tiles(
        self, images: Pair, sides: Sequence[Array], place: tuple[int, int], *, size: int, strongest: float
    ) -> int:
        """Both images under heat, side by side; returns their height."""
        left, top = place
        height = max(1, round(self._tile_height * size / TILE))
        for number, (tile, side) in enumerate(zip(images, sides, strict=True)):
            small = tile.resize((max(1, round(tile.width * size / TILE)), height), Image.Resampling.LANCZOS)
            shown = heat(small, side.reshape(self._explained.rows, self._explained.columns), strongest)
            self._sheet.paste(shown, (left + number * (size + BESIDE), top))
            self._framed(shown, left + number * (size + BESIDE), top)
        return height

    def _scale(self, left: int, top: int, strongest: float, least: float) -> None:
        """What the colours mean: from 0, or the negative of the largest value, to it."""
        start = -strongest if least < 0 else 0.0
        values = np.linspace(start, strongest, 100)[None]
        width = 2 * HEAT_TILE + BESIDE
        self._sheet.paste(
            heat(Image.new("RGB", (width, 14), PAPER), np.repeat(values, 2, axis=0), strongest), (left, top)
        )
        self._text(left, top + 18, f"{start:+.4f}" if start else "0", 18, fill=FAINT)
        self._draw.text((left + width, top + 18), f"{strongest:+.4f}", font=font(18), fill=FAINT, anchor="ra")

    def _group(self, group: int, left: int, images: Pair) -> int:
        weights = self._explained.attention[:, group]
        height = self._pair_of_tiles(
            images, list(weights), (left, self._y), size=GROUP_TILE, strongest=float(weights.max())
        )
        share, cosine = self._explained.group_shares[group], self._explained.similarity
        part = f" ({share / cosine:.0%})" if cosine > 0 else ""
        self._text(left, self._y + height + 6, f"group {group + 1}: {share:+.3f}{part}", 20)
        return height

    def _paste(self, tile: Image.Image, left: int) -> Grid:
        self._sheet.paste(tile, (left, self._y))
        self._framed(tile, left, self._y)
        return Grid(left, self._y, tile.width, tile.height, self._explained.rows, self._explained.columns)

    def _framed(self, tile: Image.Image, left: int, top: int) -> None:
        self._draw.rectangle((left - 1, top - 1, left + tile.width, top + tile.height), outline=FRAME)

    def _place(self, part: int) -> str:
        row, column = divmod(part, self._explained.columns)
        return f"row {row + 1}, column {column + 1}"

    def _centered(self, middle: int, top: int, text: str, size: int, fill: tuple[int, int, int] = INK) -> None:
        self._draw.text((middle, top), text, font=font(size), fill=fill, anchor="ma")

    def _text(
        self, left: int, top: int, text: str, size: int, *, fill: tuple[int, int, int] = INK, limit: int = WIDTH
    ) -> None:
        self._draw.text((left, top), _fitting(text, size, limit), font=font(size), fill=fill)


def _fitting(text: str, size: int, limit: int) -> str:
    """The text, or as much of its end as fits: ids differ at their ends. Characters that no font has become `?`."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font(size).getlength(shown) <= limit:
        return shown
    shown = shown[-MAX_TEXT:]
    while len(shown) > 1 and font(size).getlength(f"...{shown}") > limit:
        shown = shown[1:]
    return f"...{shown}"
