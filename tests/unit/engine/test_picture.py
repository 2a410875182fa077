"""Pictures of explanations: what is where, in which colour, and the same bytes for the same explanation."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.jobs.explain import Explanation
from eif_engine.jobs.picture import MARGIN, SECOND, TILE, WIDTH, Subject, draw_explanation, explanation_picture
from eif_engine.jobs.picture_marks import LINK_COLORS, Grid, heat, shown_links

Pixels = NDArray[np.uint8]
PREPROCESSING = Preprocessing(resize=64, center_crop=64)
TOP = MARGIN + 78
GREY = Image.new("RGB", (64, 64), (128, 128, 128))


def explanation(contributions: dict[tuple[int, int], float], *, side: int = 4, groups: int = 0) -> Explanation:
    """With these contributions, and nothing elsewhere."""
    parts = side * side
    flow_UV = np.zeros((parts, parts))
    similarity_UV = np.full((parts, parts), 0.5)
    for (part, neighbor), value in contributions.items():
        flow_UV[part, neighbor], similarity_UV[part, neighbor] = abs(value), np.sign(value)
    total = float((flow_UV * similarity_UV).sum())
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(parts), (2, groups)) if groups else np.zeros((2, 0, parts))
    return Explanation(
        similarity=0.9,
        matched_similarity=total,
        rows=side,
        columns=side,
        flow_UV=flow_UV,
        part_similarity_UV=similarity_UV,
        added_UV=None,
        group_shares=tuple([0.9 / groups] * groups if groups else []),
        attention=attention,
        error=0.0,
    )


def drawn(explained: Explanation, first: Image.Image = GREY, second: Image.Image = GREY, **options: Any) -> Pixels:
    names = {"sample_id": "sample", "label": "label"} | options
    preprocessing = names.pop("preprocessing", PREPROCESSING)
    data = draw_explanation(explained, Subject(first, **names), Subject(second, **names), preprocessing)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def near(pixels: Pixels, color: tuple[int, int, int], tolerance: int = 40) -> NDArray[np.bool_]:
    return np.asarray(np.abs(pixels.astype(int) - color).max(axis=2) <= tolerance)


def tile(pixels: Pixels, left: int) -> Pixels:
    return pixels[TOP : TOP + TILE, left : left + TILE]


def test_the_same_explanation_gives_the_same_bytes() -> None:
    explained = explanation({(0, 5): 0.4, (10, 3): 0.2}, groups=2)
    subject = Subject(GREY, "a", "b")
    one, two = (draw_explanation(explained, subject, subject, PREPROCESSING) for _ in range(2))
    assert one == two
    changed = replace(explained, similarity=0.8)
    assert draw_explanation(changed, subject, subject, PREPROCESSING) != one


def test_the_picture_is_there_for_other_formats_too() -> None:
    subject = Subject(GREY, "a", "b")
    picture = explanation_picture(explanation({(0, 5): 0.4}), subject, subject, PREPROCESSING)
    expected = drawn(explanation({(0, 5): 0.4}), sample_id="a", label="b")
    np.testing.assert_array_equal(np.asarray(picture), expected)


def test_both_images_stand_side_by_side_as_the_network_sees_them() -> None:
    wide = Image.new("RGB", (256, 64), (255, 0, 0))
    wide.paste((0, 255, 0), (96, 0, 160, 64))
    blue = Image.new("RGB", (64, 64), (0, 0, 255))
    pixels = drawn(explanation({}), wide, blue)
    assert pixels.shape[1] == WIDTH
    assert near(tile(pixels, MARGIN), (0, 255, 0)).mean() > 0.95
    assert near(tile(pixels, SECOND), (0, 0, 255)).mean() > 0.95
    assert not near(pixels[TOP : TOP + TILE], (255, 0, 0)).any()


def test_linked_parts_are_boxed_where_they_are() -> None:
    pixels = drawn(explanation({(6, 9): 0.5}))
    cell = TILE // 4
    for left, (row, column) in ((MARGIN, (1, 2)), (SECOND, (2, 1))):
        boxed = near(tile(pixels, left), LINK_COLORS[0])
        inside = boxed[row * cell - 6 : (row + 1) * cell + 6, column * cell - 6 : (column + 1) * cell + 6]
        edges = [inside[:12].sum(), inside[-12:].sum(), inside[:, :12].sum(), inside[:, -12:].sum()]
        assert min(edges) > cell
    between = near(pixels[TOP : TOP + TILE, MARGIN + TILE + 10 : SECOND - 10], LINK_COLORS[0], 60)
    assert between.any(axis=0).all()


def test_a_line_is_as_wide_as_its_link_is_strong() -> None:
    pixels = drawn(explanation({(0, 0): 0.6, (10, 10): 0.15}))
    gap = pixels[TOP : TOP + TILE, MARGIN + TILE + 50]
    widths = [int(near(gap[:, None], color, 60).sum()) for color in LINK_COLORS[:2]]
    assert widths[0] > 2 * widths[1] > 0


def test_links_that_say_the_same_twice_are_shown_once() -> None:
    found = shown_links(explanation({(0, 0): 0.5, (1, 0): 0.4, (27, 27): 0.3, (0, 27): 0.2, (40, 7): 0.01}, side=7))
    assert [(link.part, link.neighbor_part) for link in found] == [(0, 0), (27, 27), (0, 27)]
    coarse = shown_links(explanation({(0, 0): 0.5, (1, 0): 0.4}))
    assert [(link.part, link.neighbor_part) for link in coarse] == [(0, 0), (1, 0)]
    assert len(shown_links(explanation({(part, part): 0.1 for part in range(16)}))) == len(LINK_COLORS)


def test_what_takes_away_is_no_link() -> None:
    found = shown_links(explanation({(0, 0): -0.5, (3, 3): 0.1, (8, 8): 0.0}))
    assert [(link.part, link.neighbor_part) for link in found] == [(3, 3)]
    assert shown_links(explanation({(0, 0): -0.5})) == []


def test_heat_is_red_where_it_adds_and_blue_where_it_takes_away() -> None:
    white = Image.new("RGB", (200, 200), "white")
    warm = np.asarray(heat(white, np.array([[1.0, 0.0], [0.0, -1.0]]), 1.0)).astype(int)
    assert warm[10, 10, 0] > warm[10, 10, 2] + 100
    assert warm[190, 190, 2] > warm[190, 190, 0] + 100
    assert warm[190, 10].min() > 250
    weaker = np.asarray(heat(white, np.array([[0.5, 0.0], [0.0, 0.0]]), 1.0)).astype(int)
    assert warm[10, 10, 2] < weaker[10, 10, 2] < 255
    assert np.asarray(heat(white, np.zeros((2, 2)), 0.0)).min() == 255


def test_the_models_own_parts_and_groups_make_it_longer() -> None:
    plain = explanation({(0, 0): 0.5})
    own = replace(plain, added_UV=np.full((16, 16), 0.9 / 256))
    lengths = [len(drawn(each)) for each in (plain, explanation({(0, 0): 0.5}, groups=3))]
    assert lengths[1] > lengths[0] + 100
    assert len(drawn(explanation({(0, 0): 0.5}, groups=5))) > lengths[1] + 100
    assert len(drawn(own)) == lengths[0]
    half = WIDTH // 2 + 20
    assert near(drawn(own)[lengths[0] - 330 :, half:], (214, 39, 20), 90).any()
    assert not near(drawn(plain)[lengths[0] - 330 :, half:], (214, 39, 20), 90).any()


def test_many_groups_are_cut_to_the_largest() -> None:
    assert len(drawn(explanation({}, groups=40))) == len(drawn(explanation({}, groups=12)))


@pytest.mark.parametrize(
    ("size", "sides"),
    [((32, 64), (TILE // 2, TILE)), ((64, 16), (TILE, TILE // 4))],
    ids=["wide", "tall"],
)
def test_images_keep_the_shape_that_the_network_sees(size: tuple[int, int], sides: tuple[int, int]) -> None:
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    pixels = drawn(explanation({}), red, red, preprocessing=Preprocessing(resize=size))
    seen = near(pixels[TOP : TOP + sides[0], MARGIN : MARGIN + sides[1]], (255, 0, 0))
    assert seen.mean() > 0.99
    assert not near(pixels[TOP + sides[0] + 3 : TOP + sides[0] + 20, MARGIN : MARGIN + TILE], (255, 0, 0)).any()


@pytest.mark.parametrize(
    "text", ["x" * 3000, "a\nb\x1b[0m", "", "ünï 日本"], ids=["long", "control", "empty", "unicode"]
)
def test_any_id_and_label_can_be_drawn(text: str) -> None:
    pixels = drawn(explanation({}), sample_id=text, label=text)
    assert (pixels[MARGIN:TOP, -MARGIN // 2 :] == 255).all()
    assert (pixels[MARGIN : TOP - 1, MARGIN + TILE : MARGIN + TILE + 8] == 255).all()


def test_grey_and_tiny_images_can_be_drawn() -> None:
    grey = Image.new("L", (3, 2), 128)
    pixels = drawn(explanation({}), grey, grey, preprocessing=Preprocessing(mode="L", resize=(2, 3)))
    assert near(pixels[TOP : TOP + 200, MARGIN : MARGIN + TILE], (128, 128, 128)).mean() > 0.99


def test_a_grid_knows_where_its_parts_are() -> None:
    grid = Grid(left=10, top=20, width=80, height=40, rows=2, columns=4)
    assert grid.box(0) == (10, 20, 30, 40)
    assert grid.box(7) == (70, 40, 90, 60)


@pytest.mark.parametrize(
    ("preprocessing", "size"),
    [
        (Preprocessing(resize=(20, 30)), (45, 77)),
        (Preprocessing(resize=40, center_crop=32), (160, 80)),
        (Preprocessing(resize=40, center_crop=(20, 40)), (80, 160)),
    ],
    ids=["all", "wide", "tall"],
)
def test_the_part_that_is_seen_is_the_part_that_is_cut_out(preprocessing: Preprocessing, size: tuple[int, int]) -> None:
    """A ramp tells where its pixels come from."""
    width, height = size
    across = np.linspace(0, 255, width)[None].repeat(height, axis=0)
    image = Image.fromarray(np.stack([across] * 3, axis=2).round().astype(np.uint8))
    left, top, right, bottom = preprocessing.seen_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    values = preprocessing.apply(image)[0] * 255
    expected = (np.array([left, right]) / width) * 255
    step = 255 / values.shape[1]
    np.testing.assert_allclose([values[0, 0], values[0, -1]], expected, atol=1.5 * step + 2)
