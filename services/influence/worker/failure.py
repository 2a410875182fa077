"""From what was raised to what the caller is told."""

from __future__ import annotations

import logging

from eif_engine.errors import EifError, GpuMemoryExceeded, MemoryExceeded
from services.common.errors import ServiceError
from services.influence.messages import FailedMessage
from services.influence.worker.mapped_file import NO_SPACE

logger = logging.getLogger(__name__)

MAX_MESSAGE = 2000
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "unable to allocate")


def failure_of(error: BaseException) -> FailedMessage:
    """The last message of a job that failed. What is nobody's fault but ours is logged, and told without its text."""
    known = _known(error)
    if known is None:
        logger.error("the job failed unexpectedly", exc_info=error)
        return FailedMessage(
            reason="INTERNAL",
            message=f"an unexpected {type(error).__name__} stopped the job; the log of the job process has the details",
        )
    logger.warning("the job failed: %s: %s", known.reason, known.message)
    return FailedMessage(reason=known.reason, message=known.message[:MAX_MESSAGE], metadata=known.metadata)


def _known(error: BaseException) -> EifError | None:
    if isinstance(error, EifError):
        return error
    if type(error).__name__ == "OutOfMemoryError":  # torch's, and torch's alone: of a GPU
        return GpuMemoryExceeded(
            "the job ran out of GPU memory: give it a GPU with more, or one that nobody else uses, or the CPU"
        )
    if _is_out_of_memory(error):
        return MemoryExceeded("the job ran out of memory: give it a machine with more, or fewer samples or queries")
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return ServiceError(
            "SCRATCH_FULL", "the disk that holds the scratch folder of the job is full: make room on it"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, and torch's RuntimeError, told by its text."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)
