"""The linter of model bundles: everything that is wrong or odd about one, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from eif_engine.errors import EifError
from eif_engine.models.architectures import Backbone, bundle_backbone, installed_architectures
from eif_engine.models.assembly import (
    bundle_loss,
    finite_loss_parameters,
    fit,
    load_backbone,
    make_head,
    probe_features,
)
from eif_engine.models.bundle import MODEL_JSON, ModelBundle
from eif_engine.models.bundle_files import read_proxies, read_weights
from eif_engine.models.findings import Finding, Level
from eif_engine.models.safe_load import DEFAULT_LIMITS, CheckpointLimits
from eif_engine.models.sanity import (
    odd_batch_norm,
    odd_head,
    odd_loss,
    odd_outputs,
    odd_preprocessing,
    odd_proxies,
)
from eif_engine.models.schema import read_faults


def check_bundle(folder: Path, *, limits: CheckpointLimits = DEFAULT_LIMITS) -> list[Finding]:
    """Check all of a bundle, going on after a fault as far as that makes sense. Raises nothing."""
    return _Check(folder, limits).run()


def _shown(vectors_CKD: Tensor) -> tuple[int, ...]:
    """Their shape, without K where it is 1."""
    c, k, d = vectors_CKD.shape
    return (c, d) if k == 1 else (c, k, d)


class _Check:
    def __init__(self, folder: Path, limits: CheckpointLimits) -> None:
        self.folder = folder
        self.limits = limits
        self.findings: list[Finding] = []

    def run(self) -> list[Finding]:
        bundle = self._schema()
        if bundle is None:
            return self.findings
        state = self._weights(bundle)
        proxies = self._proxies(bundle, state)
        backbone, feature_dim = self._architecture(bundle)
        if (
            state is not None
            and feature_dim
            and backbone is not None
            and self._fits(bundle, state, backbone, feature_dim)
        ):
            self._values(bundle, state, backbone)
        if proxies is not None:
            self.findings += odd_proxies(proxies, bundle)
        self.findings += odd_loss(bundle)
        imagenet_family = installed_architectures().get(bundle.architecture.name) == "torchvision"
        self.findings += odd_preprocessing(bundle, imagenet_family=imagenet_family)
        return self.findings

    def _schema(self) -> ModelBundle | None:
        bundle, faults = read_faults(ModelBundle, self.folder / MODEL_JSON)
        for fault in faults:
            self._add(Level.ERROR, "MODEL_BUNDLE_INVALID", fault)
        if bundle is not None:
            self._ok(
                "SCHEMA",
                f"{MODEL_JSON}: {bundle.architecture.name}, {bundle.loss.name}, {len(bundle.classes)} classes, "
                f"embedding of {bundle.embedding_dim}",
            )
        return bundle

    def _weights(self, bundle: ModelBundle) -> dict[str, Tensor] | None:
        with self._reported():
            state = read_weights(self.folder, bundle, limits=self.limits)
            self._ok(
                "WEIGHTS", f"{bundle.weights.file}: sha256 as stated, {len(state)} tensors, nothing that runs code"
            )
            return state
        return None

    def _proxies(self, bundle: ModelBundle, state: dict[str, Tensor] | None) -> Tensor | None:
        with self._reported():
            if bundle.proxies is not None:
                state = read_proxies(self.folder, bundle.proxies, limits=self.limits)
            if state is None:
                return None
            name = (bundle.proxies or bundle.weights).file
            proxies = finite_loss_parameters(state, bundle, name=name)
            bundle_loss(proxies, bundle, torch.device("cpu"))
            if proxies is None:
                self._ok("PROXIES", f"{bundle.loss.name} has no parameters: its bank comes from the training samples")
            else:
                self._ok("PROXIES", f"{name}: parameters of {bundle.loss.name}, {_shown(proxies)}")
            return proxies
        return None

    def _architecture(self, bundle: ModelBundle) -> tuple[Backbone | None, int]:
        backbone: Backbone | None = None
        with self._reported():
            backbone = bundle_backbone(bundle)
            feature_dim = probe_features(backbone.module, bundle)
            shape = bundle.preprocessing.output_shape
            self._ok("ARCHITECTURE", f"{bundle.architecture.name} takes {shape} and gives {feature_dim} features")
            return backbone, feature_dim
        return backbone, 0

    def _fits(self, bundle: ModelBundle, state: dict[str, Tensor], backbone: Backbone, feature_dim: int) -> bool:
        mismatches = fit(state, backbone, bundle, feature_dim)
        for item in mismatches:
            self._add(Level.ERROR, item.code, f"{bundle.weights.file}: {item.message}")
        if not mismatches:
            self._ok("STATE_DICT", f"{bundle.weights.file}: every key, shape and value fits")
        return not mismatches

    def _values(self, bundle: ModelBundle, state: dict[str, Tensor], backbone: Backbone) -> None:
        load_backbone(backbone.module, state)
        head = make_head(state, torch.device("cpu"))
        self.findings += odd_head(head)
        self.findings += odd_batch_norm(backbone.module)
        self.findings += odd_outputs(backbone.module, head, bundle)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except EifError as error:
            self._add(Level.ERROR, error.reason, error.message)

    def _ok(self, code: str, message: str) -> None:
        self._add(Level.OK, code, message)

    def _add(self, level: Level, code: str, message: str) -> None:
        self.findings.append(Finding(level=level, code=code, message=message))
