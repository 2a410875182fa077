from __future__ import annotations

import torch

from eif_engine.audit_types import AuditSplit
from services.demo.data import DemoImage
from tests.benchmarks.audit.identities import CUT_CLASSES, compared, cut, other_part


def images() -> list[DemoImage]:
    names = [f"a/{number:02d}" for number in range(CUT_CLASSES + 5)]
    return [
        DemoImage(sample_id=f"{name}/{shot}", label="wrong", true_label=name, png=b"")
        for name in names
        for shot in range(8)
    ]


def test_some_classes_are_cut_in_two_and_the_rest_keep_their_true_labels() -> None:
    found = cut(images(), share=0.25, seed=0)
    labels = [image.label for image in found]
    parts = {label for label in set(labels) if other_part(label) in set(labels)}
    assert len(parts) == 2 * CUT_CLASSES
    for label in parts:
        assert other_part(other_part(label)) == label
        assert sorted((labels.count(label), labels.count(other_part(label)))) == [2, 6]
    assert [image.sample_id for image in found] == [image.sample_id for image in images()]
    whole = [image for image in found if image.label not in parts]
    assert {image.label for image in whole} == {image.true_label for image in whole}
    assert len(whole) == 5 * 8


def test_parts_that_lie_together_are_found_and_others_are_not() -> None:
    found = cut(images(), share=0.5, seed=0)
    generator = torch.Generator().manual_seed(0)
    shapes = sorted({image.sample_id.rpartition("/")[0] for image in found})
    center_CF = torch.randn(len(shapes), 40, generator=generator)
    place_N = torch.tensor([shapes.index(image.sample_id.rpartition("/")[0]) for image in found])
    split = AuditSplit(
        sample_ids=[image.sample_id for image in found],
        labels=[image.label for image in found],
        features_NF=center_CF[place_N] + 0.3 * torch.randn(len(found), 40, generator=generator),
        digests=[None] * len(found),
    )
    figures = compared(split)
    assert (figures["precision"], figures["parts"]) == (1.0, 2.0 * CUT_CLASSES)
    assert figures["recall"] >= 0.9
    assert figures["highest_other_overlap"] == 0
