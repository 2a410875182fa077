"""The figures of an audit by name: what policies, reports and dashboards speak of. No torch."""

from __future__ import annotations

FIGURES: dict[str, str] = {
    "train_samples": "training samples that could be read",
    "test_samples": "test samples that could be read",
    "classes": "labels in the training manifest",
    "quarantined": "samples that could not be read",
    "recall_at_1": "share of test samples whose nearest other test sample has their label",
    "map_at_r": "MAP@R of the test set",
    "confusion_pairs": "test samples whose nearest other test sample has another label",
    "confusion_share": "confusion_pairs over test_samples",
    "confusions_set_aside": "confusion pairs set aside because a test label itself looks wrong",
    "confusion_classes": "test classes with confusions that are not set aside",
    "test_label_issues": "test samples whose label looks wrong",
    "label_issues": "training samples whose label looks wrong (flagged, not reviewed)",
    "label_issue_share": "label_issues over train_samples",
    "estimated_noise": "estimated share of wrong training labels, in [0, 0.5]",
    "reviewed": "training samples that people have found right before",
    "canary_precision": "expected share of flagged training samples whose label is wrong, from planted flips",
    "canary_recall": "share of planted flips that are flagged",
    "classes_centralized": "classes of which many samples belong to one other class: merge or rename",
    "classes_diversified": "classes of which many samples belong to several others: clean",
    "classes_individual": "classes with single wrong labels: relabel",
    "classes_other": "classes between the two",
    "same_identity_classes": "classes whose centre overlaps with that of another class",
    "exact_duplicates": "samples with the same bytes as an earlier one",
    "near_duplicates": "samples that are nearly the same as an earlier one",
    "label_conflicts": "groups of duplicates with more than one label",
    "leaks": "groups of duplicates that span train and test",
    "outliers": "samples far from everything",
    "harm_of_top_percent": "share of all positive harm that the most harmful 1 % of training samples do",
    "proof_recall_gain": "recall@1 gained by relabelling as suggested and retraining the head, over retraining alone",
    "proof_random_recall_gain": "the same for as many random changes",
    "proof_distance_gain": "mean distance that confused pairs gained by reweighting as ranked, over retraining alone",
    "proof_random_distance_gain": "the same for as many random changes",
}
"""What each is. `recall_at_<k>` is there for every k asked for. Those that need a model are absent without one."""
