"""What can go wrong, in words for the caller.

    EifError
    |-- InvalidInput            the caller's data or request
    |   |-- ManifestInvalid     a manifest cannot be read: file and line
    |   |-- LabelUnknown        a label that the model was not trained on
    |   |-- SampleUnknown       a sample id that no manifest has
    |   |-- ImageInvalid        an image cannot be decoded, or is over a limit
    |   |-- ModelBundleInvalid  model.json or onnx.json breaks its schema
    |   |-- CheckpointUnsafe    a checkpoint that would run code or lies about its size
    |   |-- CheckpointIncompatible  keys, shapes or values that do not fit the architecture
    |   |-- FeatureMapMissing   a network without a feature map whose parts could be compared
    |   |-- OnnxInvalid         an ONNX model that cannot be loaded, or reaches outside its folder
    |   `-- TooManyQuarantined  more unreadable samples than the request allows
    `-- ResourceProblem         this machine
        |-- DeviceUnavailable   no such device here
        `-- MemoryExceeded      does not fit the budget
            `-- GpuMemoryExceeded   does not fit the GPU

Every class has a frozen `reason`, which is part of the API (docs/reference/errors.md). Messages are written for the
caller: they name the file, line, key or field, and what to do. `metadata` repeats the dynamic parts for machines.
"""

from __future__ import annotations


class EifError(Exception):
    """Base of every error whose message is meant for the caller.

    Args:
        message: What is wrong and what to do about it.
        **metadata: The dynamic parts of the message, by name.
    """

    reason: str = "INTERNAL"

    def __init__(self, message: str, **metadata: str | float) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}


class InvalidInput(EifError):
    """The caller's data or request is wrong."""

    reason = "ARGUMENT_INVALID"


class ManifestInvalid(InvalidInput):
    """A manifest cannot be read. Metadata: `uri`, `line` (from 1) where there is one, `field`."""

    reason = "MANIFEST_INVALID"


class LabelUnknown(InvalidInput):
    """A label that is not among the classes of the model. Metadata: `label`, `sample_id`."""

    reason = "LABEL_UNKNOWN"


class SampleUnknown(InvalidInput):
    """A sample id that the manifest does not have. Metadata: `sample_id`."""

    reason = "SAMPLE_UNKNOWN"


class ImageInvalid(InvalidInput):
    """An image cannot be decoded or is over a limit. Metadata: `sample_id` or `uri`."""

    reason = "IMAGE_INVALID"


class ModelBundleInvalid(InvalidInput):
    """model.json or onnx.json breaks its schema. Metadata: `uri`, `field`."""

    reason = "MODEL_BUNDLE_INVALID"


class CheckpointUnsafe(InvalidInput):
    """A checkpoint that would run code when loaded, or that claims more data than it holds."""

    reason = "CHECKPOINT_UNSAFE"


class CheckpointIncompatible(InvalidInput):
    """Keys, shapes or values of a checkpoint do not fit the architecture. Metadata: `keys`."""

    reason = "CHECKPOINT_INCOMPATIBLE"


class FeatureMapMissing(InvalidInput):
    """A network has no feature map whose parts could be compared, or too large a one. Metadata: `architecture`."""

    reason = "FEATURE_MAP_MISSING"


class OnnxInvalid(InvalidInput):
    """An ONNX model cannot be loaded or reaches outside its folder. Metadata: `location`."""

    reason = "ONNX_INVALID"


class TooManyQuarantined(InvalidInput):
    """More samples could not be read than the request allows. Metadata: `quarantined`, `total`, `limit`."""

    reason = "TOO_MANY_QUARANTINED"


class ResourceProblem(EifError):
    """This machine cannot do it."""

    reason = "RESOURCE_PROBLEM"


class DeviceUnavailable(ResourceProblem):
    """The device asked for is not on this machine. Metadata: `device`."""

    reason = "DEVICE_UNAVAILABLE"


class MemoryExceeded(ResourceProblem):
    """The work does not fit its memory. Metadata: `needed_bytes`, `budget_bytes`."""

    reason = "MEMORY_EXCEEDED"


class GpuMemoryExceeded(MemoryExceeded):
    """The work does not fit the memory of the GPU, also in small batches. Metadata: `device`."""

    reason = "GPU_OUT_OF_MEMORY"
