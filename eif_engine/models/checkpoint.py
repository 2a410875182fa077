"""From the folder of a bundle to a model that is ready to be explained."""

from __future__ import annotations

from pathlib import Path

import torch

from eif_engine.models.architectures import bundle_backbone
from eif_engine.models.assembly import (
    bundle_loss,
    finite_loss_parameters,
    fit,
    load_backbone,
    make_head,
    probe_features,
    refuse,
)
from eif_engine.models.bundle import read_bundle
from eif_engine.models.bundle_files import read_proxies, read_weights
from eif_engine.models.devices import torch_device
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.safe_load import DEFAULT_LIMITS, CheckpointLimits


def load_model(
    folder: Path, *, device: str | torch.device = "cpu", limits: CheckpointLimits = DEFAULT_LIMITS
) -> LoadedModel:
    """Load a bundle: model.json and the files that it names, all in one folder.

    Args:
        folder: Of the bundle.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        limits: Largest file and number of tensors.

    Returns:
        The model in float32, in eval mode, without gradients.

    Raises:
        ModelBundleInvalid: model.json breaks its schema, or a file is missing or not the one it names.
        CheckpointUnsafe: A file would run code or claims more data than it has.
        CheckpointIncompatible: Keys, shapes or values do not fit; the message names them all.
        DeviceUnavailable: No such device here.
    """
    target = torch_device(str(device))
    bundle = read_bundle(folder)
    state = read_weights(folder, bundle, limits=limits)
    loss_state, loss_file = state, bundle.weights.file
    if bundle.proxies is not None:
        loss_state, loss_file = read_proxies(folder, bundle.proxies, limits=limits), bundle.proxies.file
    backbone = bundle_backbone(bundle)
    feature_dim = probe_features(backbone.module, bundle)
    refuse(fit(state, backbone, bundle, feature_dim), name=bundle.weights.file)
    vectors = finite_loss_parameters(loss_state, bundle, name=loss_file)
    load_backbone(backbone.module, state)
    return LoadedModel(
        backbone=backbone.module.to(target),
        head=make_head(state, target),
        loss=bundle_loss(vectors, bundle, target),
        classes=bundle.classes,
        preprocessing=bundle.preprocessing,
        weights_sha256=bundle.weights.sha256,
    )
