"""The tables of an audit: their names, columns and meaning. No torch.

An audit also has the tables `ranking` and `pairs` of a rank job, whose queries are its confusion classes
(`class:<label>`) after the screen of test labels.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def _schema(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    fields: list[pa.Field[Any]] = [pa.field(name, kind, nullable=False) for name, kind in columns]
    return pa.schema(fields)


QUALITY = _schema(
    # Retrieval quality of the test set. Scope `all` (value empty), `class` (value is a label), or `column:<name>`.
    ("scope", pa.string()),
    ("value", pa.string()),
    ("metric", pa.string()),  # recall_at_<k> or map_at_r, in [0, 1]
    ("samples", pa.int64()),  # test samples that it is the mean of
    ("score", pa.float64()),
)

CONFUSIONS = _schema(
    # Every confusion pair of the test set, closest first; those set aside by the screen of test labels too.
    ("sample_id", pa.string()),
    ("neighbor_id", pa.string()),
    ("label", pa.string()),
    ("neighbor_label", pa.string()),
    ("distance", pa.float64()),
    ("set_aside", pa.bool_()),  # blames no training sample: a test label itself looks wrong
    ("suspect_id", pa.string()),  # the test sample whose label looks wrong; empty unless set aside
    ("suspect_probability", pa.float64()),  # that it is wrong: the larger of the two, also where not set aside
    ("suspect_suggested_label", pa.string()),  # the label it should have; empty unless set aside
)

CONFUSION_CLASSES = _schema(
    # Test classes with confusions (not set aside), the most first.
    ("label", pa.string()),
    ("query_id", pa.string()),  # of `ranking` and `pairs`
    ("samples", pa.int64()),  # test samples of the class
    ("confusions", pa.int64()),
    ("share", pa.float64()),  # confusions over samples
    ("top_label", pa.string()),  # the label it is most often confused with
    ("top_count", pa.int64()),
    ("mean_distance", pa.float64()),
    ("harmful_samples", pa.int64()),  # training samples that make up half of its positive harm
)

CLASS_PAIRS = _schema(
    # Pairs of classes that are confused (not set aside), the most confusions first; label < neighbor_label.
    ("label", pa.string()),
    ("neighbor_label", pa.string()),
    ("confusions", pa.int64()),
    ("mean_distance", pa.float64()),
)

HARM = _schema(
    # Every training sample, the most harmful over all confusions first.
    ("rank", pa.int64()),
    ("sample_id", pa.string()),
    ("label", pa.string()),
    ("rank_low", pa.int64()),  # interval of ranks by a bootstrap over confusions
    ("rank_high", pa.int64()),
    ("signed", pa.float64()),
    ("absolute", pa.float64()),
    ("positive", pa.float64()),
)

ISSUES = _schema(
    # Training samples by the probability that their label is wrong, highest first; every sample has a row.
    ("rank", pa.int64()),
    ("sample_id", pa.string()),
    ("label", pa.string()),
    ("issue_probability", pa.float64()),
    ("flagged", pa.bool_()),  # probability at or above 0.5, and not reviewed
    ("reviewed", pa.bool_()),  # people have found the label right
    ("suggested_label", pa.string()),  # the most probable label, which may be the given one
    ("suggested_probability", pa.float64()),
    ("alternative_label", pa.string()),  # the most probable other label
    ("alternative_probability", pa.float64()),
    ("neighbor_ids", pa.list_(pa.string())),  # nearest training samples that carry the suggested label
    ("neighbor_labels", pa.list_(pa.string())),
    ("part_names", pa.list_(pa.string())),  # the evidence: higher is more doubtful
    ("part_scores", pa.list_(pa.float64())),
)

TEST_ISSUES = _schema(
    # Test samples whose label looks wrong (probability at or above 0.5), highest first.
    ("sample_id", pa.string()),
    ("label", pa.string()),
    ("issue_probability", pa.float64()),
    ("suggested_label", pa.string()),
    ("suggested_probability", pa.float64()),
)

ADVICE = _schema(
    # What to do about each training class: those that need something first.
    ("label", pa.string()),
    ("samples", pa.int64()),
    ("recommended_elsewhere", pa.float64()),  # share of its samples for which another label is suggested
    ("target_entropy", pa.float64()),  # of the labels suggested for those, in nats over log of their number: [0, 1]
    ("top_target", pa.string()),  # the most frequent of them; empty without one
    ("top_share", pa.float64()),  # its share among them
    ("advice", pa.string()),  # CENTRALIZED, DIVERSIFIED, INDIVIDUAL, OTHER or NONE
    ("same_as", pa.string()),  # a class whose centre overlaps: perhaps the same identity; empty without one
    ("same_as_overlap", pa.float64()),  # in [0, 1]
    ("action", pa.string()),  # for people: one sentence
)

DUPLICATES = _schema(
    # Groups of samples that are the same or nearly so; rows of a group stand together.
    ("group", pa.int64()),  # from 1
    ("sample_id", pa.string()),
    ("split", pa.string()),  # train or test
    ("label", pa.string()),
    ("similarity", pa.float64()),  # cosine to the first of the group
    ("exact", pa.bool_()),  # the same bytes as the first of the group
    ("label_conflict", pa.bool_()),  # the group has more than one label
    ("leak", pa.bool_()),  # the group spans train and test
)

OUTLIERS = _schema(
    # Samples far from everything, farthest first.
    ("rank", pa.int64()),
    ("sample_id", pa.string()),
    ("split", pa.string()),
    ("label", pa.string()),
    ("score", pa.float64()),  # distance to its k-th neighbour over the median of that in its split
)

ROLLUPS = _schema(
    # Findings by the values of a column of the train manifest; the most positive harm first, by column.
    ("column", pa.string()),
    ("value", pa.string()),
    ("samples", pa.int64()),
    ("flagged", pa.int64()),
    ("flagged_share", pa.float64()),
    ("harm_share", pa.float64()),  # of all positive harm
    ("harm_lift", pa.float64()),  # harm_share over its share of samples
)

CANARY = _schema(
    # Known flips planted in copies of the labels: how well detection does on this data, by review budget.
    ("budget_share", pa.float64()),  # of training samples reviewed
    ("budget", pa.int64()),  # samples reviewed
    ("precision", pa.float64()),  # expected share of reviewed samples whose label is wrong
    ("recall", pa.float64()),  # share of planted flips among those reviewed
)

PROOF = _schema(
    # What acting on the findings does when the head is retrained from cached features.
    ("target", pa.string()),  # a query id, or `all`
    ("action", pa.string()),  # reweight or relabel
    ("arm", pa.string()),  # none, eif or issues, random
    ("draws", pa.int64()),
    ("changed", pa.int64()),  # samples changed
    ("distance", pa.float64()),  # of the confusion after; of all confusions for `all`
    ("distance_gain", pa.float64()),  # over retraining with nothing changed
    ("distance_gain_error", pa.float64()),  # standard error over draws; 0 for one
    ("recall_at_1", pa.float64()),
    ("recall_gain", pa.float64()),
    ("recall_gain_error", pa.float64()),
)

FINDINGS = _schema(
    # Everything found, one row each: what gates and differences between audits speak of. The most severe first by kind.
    ("finding_id", pa.string()),  # the same in every audit that finds the same about the same samples
    ("kind", pa.string()),  # see FINDING_KINDS
    ("sample_id", pa.string()),
    ("other_id", pa.string()),
    ("label", pa.string()),
    ("other_label", pa.string()),
    ("severity", pa.float64()),  # in [0, 1]
    ("summary", pa.string()),
)

AUDIT_SCHEMAS: dict[str, pa.Schema] = {
    "quality": QUALITY,
    "confusions": CONFUSIONS,
    "confusion_classes": CONFUSION_CLASSES,
    "class_pairs": CLASS_PAIRS,
    "harm": HARM,
    "issues": ISSUES,
    "test_issues": TEST_ISSUES,
    "advice": ADVICE,
    "duplicates": DUPLICATES,
    "outliers": OUTLIERS,
    "rollups": ROLLUPS,
    "canary": CANARY,
    "proof": PROOF,
    "findings": FINDINGS,
}
"""By table name; the file is `<name>.parquet`. Tables that need a model are empty without one."""

FINDING_KINDS: dict[str, str] = {
    "confusion": "a test sample whose nearest other test sample has another label; the screen has not set it aside",
    "label_issue": "a training sample whose label looks wrong",
    "test_label_issue": "a test sample whose label looks wrong",
    "label_conflict": "two duplicates with different labels",
    "leak": "the same image in train and test",
    "duplicate": "two training samples that are the same or nearly so",
    "outlier": "a sample far from everything",
    "class": "a class that needs more than single corrections: merge, rename or clean",
}
"""Kinds of findings, and what one is."""
