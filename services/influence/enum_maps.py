"""Enums of the protos and what they are called in the domain."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from eif.influence.v1 import job_pb2, results_pb2

from eif_engine.config import Distance, Metric, NeighborSpace, QueryKind, VoteRule
from services.influence.job import JobState
from services.influence.names import invalid
from services.influence.spec import Device

_Value = TypeVar("_Value", bound=int)
_Domain = TypeVar("_Domain", bound=StrEnum | str)


class EnumMap(Generic[_Value, _Domain]):
    """One enum, both ways. The unspecified value, if it means something, is read like the one that it stands for."""

    def __init__(self, values: Mapping[_Value, _Domain]) -> None:
        self._values = dict(values)
        self._numbers = {domain: value for value, domain in values.items()}  # the last wins: not the unspecified one

    def read(self, value: _Value, field: str) -> _Domain:
        """What a value of a request means. Raises ARGUMENT_INVALID for one that this server does not know."""
        domain = self._values.get(value)
        if domain is None:
            known = ", ".join(f"{int(number)} ({name})" for number, name in self._values.items())
            raise invalid(field, f"{int(value)} is not a value that is known here; known are {known}")
        return domain

    def write(self, domain: _Domain) -> _Value:
        """The value for a response."""
        return self._numbers[domain]


KINDS = EnumMap(
    {
        job_pb2.QuerySelection.KIND_UNSPECIFIED: QueryKind.CONFUSION_PAIRS,
        job_pb2.QuerySelection.KIND_CONFUSION_PAIRS: QueryKind.CONFUSION_PAIRS,
        job_pb2.QuerySelection.KIND_MIS_SIMILAR_PAIRS: QueryKind.MIS_SIMILAR_PAIRS,
        job_pb2.QuerySelection.KIND_CONFUSION_GROUPS: QueryKind.CONFUSION_GROUPS,
    }
)
METRICS = EnumMap(
    {
        job_pb2.METRIC_UNSPECIFIED: Metric.IDENTITY,
        job_pb2.METRIC_IDENTITY: Metric.IDENTITY,
        job_pb2.METRIC_KFAC: Metric.KFAC,
    }
)
DISTANCES = EnumMap(
    {
        job_pb2.DISTANCE_UNSPECIFIED: Distance.SQUARED_EUCLIDEAN,
        job_pb2.DISTANCE_SQUARED_EUCLIDEAN: Distance.SQUARED_EUCLIDEAN,
        job_pb2.DISTANCE_EUCLIDEAN: Distance.EUCLIDEAN,
        job_pb2.DISTANCE_COSINE: Distance.COSINE,
    }
)
SPACES = EnumMap(
    {
        job_pb2.NEIGHBOR_SPACE_UNSPECIFIED: NeighborSpace.PENULTIMATE,
        job_pb2.NEIGHBOR_SPACE_EMBEDDING: NeighborSpace.EMBEDDING,
        job_pb2.NEIGHBOR_SPACE_PENULTIMATE: NeighborSpace.PENULTIMATE,
    }
)
VOTES = EnumMap(
    {
        job_pb2.VOTE_RULE_UNSPECIFIED: VoteRule.SOFT,
        job_pb2.VOTE_RULE_SOFT: VoteRule.SOFT,
        job_pb2.VOTE_RULE_HARD: VoteRule.HARD,
    }
)
DEVICES = EnumMap(
    {
        job_pb2.DEVICE_UNSPECIFIED: Device.AUTO,
        job_pb2.DEVICE_CPU: Device.CPU,
        job_pb2.DEVICE_CUDA: Device.CUDA,
    }
)
STATES = EnumMap(
    {
        job_pb2.JOB_STATE_PENDING: JobState.PENDING,
        job_pb2.JOB_STATE_RUNNING: JobState.RUNNING,
        job_pb2.JOB_STATE_CANCELLING: JobState.CANCELLING,
        job_pb2.JOB_STATE_SUCCEEDED: JobState.SUCCEEDED,
        job_pb2.JOB_STATE_FAILED: JobState.FAILED,
        job_pb2.JOB_STATE_CANCELLED: JobState.CANCELLED,
    }
)
TABLES = EnumMap(
    {
        results_pb2.RESULT_TABLE_RANKING: "ranking",
        results_pb2.RESULT_TABLE_RELABEL: "relabel",
        results_pb2.RESULT_TABLE_PAIRS: "pairs",
        results_pb2.RESULT_TABLE_QUARANTINE: "quarantine",
    }
)
ORDERS = EnumMap(
    {
        results_pb2.RANK_ORDER_UNSPECIFIED: "harmful_first",
        results_pb2.RANK_ORDER_HARMFUL_FIRST: "harmful_first",
        results_pb2.RANK_ORDER_HELPFUL_FIRST: "helpful_first",
    }
)
