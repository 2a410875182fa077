"""The files that a bundle names: found, verified and read."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from eif_engine.errors import ModelBundleInvalid
from eif_engine.models.bundle import ModelBundle
from eif_engine.models.digests import file_sha256
from eif_engine.models.safe_load import CheckpointLimits, read_checkpoint
from eif_engine.models.schema import FileRef
from eif_engine.models.state_dict import canonical, tensors_of


def verify_file(folder: Path, ref: FileRef, *, field: str) -> Path:
    """The path of a file beside model.json.

    Raises:
        ModelBundleInvalid: It is not there, or it is not the file that model.json was written for.
    """
    path = folder / ref.file
    if not path.is_file():
        raise ModelBundleInvalid(
            f"{field}.file is {ref.file}, but there is no such file beside model.json", field=f"{field}.file"
        )
    digest = file_sha256(path)
    if digest != ref.sha256:
        raise ModelBundleInvalid(
            f"{ref.file} has sha256 {digest}, but {field}.sha256 is {ref.sha256}: another file, or a damaged one",
            field=f"{field}.sha256",
        )
    return path


def read_weights(folder: Path, bundle: ModelBundle, *, limits: CheckpointLimits) -> dict[str, Tensor]:
    """The weights, named `backbone.*`, `head.*` and `loss.*`. Raises as `load_model`."""
    path = verify_file(folder, bundle.weights, field="weights")
    return canonical(tensors_of(read_checkpoint(path, limits=limits), name=path.name), bundle.weights.format)


def read_proxies(folder: Path, ref: FileRef, *, limits: CheckpointLimits) -> dict[str, Tensor]:
    """The file of the loss. Raises as `load_model`."""
    path = verify_file(folder, ref, field="proxies")
    return tensors_of(read_checkpoint(path, limits=limits), name=path.name)
