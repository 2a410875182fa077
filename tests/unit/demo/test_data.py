from __future__ import annotations

from pathlib import Path

import pytest

from eif_engine.data.images import decode_image
from eif_engine.errors import InvalidInput
from services.demo.data import DemoData, load


@pytest.fixture(scope="module")
def digits() -> DemoData:
    return load("digits", seed=0)


def test_digits_are_a_class_disjoint_split_of_real_images(digits: DemoData) -> None:
    assert len(digits.train) + len(digits.test) == 1797
    assert not {image.true_label for image in digits.train} & {image.true_label for image in digits.test}
    ids = [image.sample_id for image in (*digits.train, *digits.test)]
    assert len(set(ids)) == len(ids)
    assert decode_image(digits.train[0].png).size == (8, 8)


def test_a_tenth_of_the_training_labels_is_wrong_and_no_test_label(digits: DemoData) -> None:
    assert len(digits.flips) == round(0.1 * len(digits.train))
    assert not any(image.flipped for image in digits.test)
    classes = {image.true_label for image in digits.train}
    assert all(image.label in classes for image in digits.train)


def test_flips_are_seeded(digits: DemoData) -> None:
    assert load("digits", seed=0).flips == digits.flips
    assert load("digits", seed=1).flips != digits.flips


def test_omniglot_is_the_split_of_the_case(shared_dir: Path) -> None:
    data = load(str(shared_dir / "data"), seed=0)
    assert (len(data.train), len(data.test)) == (2720, 2120)
    assert len({image.true_label for image in data.train}) == 136
    assert len({image.true_label for image in data.test}) == 106
    assert data.train[0].sample_id == "Balinese/character01/0108_01.png"


def test_another_folder_is_an_error_that_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"omniglot_background_small1\.zip.*Balinese"):
        load(str(tmp_path), seed=0)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(InvalidInput, match=r"broken\.zip"):
        load(str(tmp_path), seed=0)
