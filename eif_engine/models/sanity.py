"""What is odd about a model that can be loaded: the usual ways in which a bundle and its training have come apart."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eif_engine.losses.settings import ArcFaceSettings, NormalizedSoftmaxSettings, PmlSettings, ProxyNcaSettings
from eif_engine.models.bundle import ModelBundle
from eif_engine.models.findings import Finding, Level
from eif_engine.models.head import Head

PROBE_IMAGES = 8
PROBE_SEED = 0
SAME_COSINE = 1 - 1e-5
SMALL_NORM = 1e-6
MAX_NAMED = 5


def odd_preprocessing(bundle: ModelBundle, *, imagenet_family: bool) -> Iterator[Finding]:
    """Inputs far from what networks of this kind were made for."""
    steps = bundle.preprocessing
    if imagenet_family and set(steps.mean) == {0.0} and set(steps.std) == {1.0}:
        yield _warning(
            "PREPROCESSING",
            f"preprocessing has mean 0 and std 1, but {bundle.architecture.name} is mostly trained with mean "
            "[0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225]: take the numbers from the training code",
        )
    if steps.divisor == 1.0 and max(steps.std) < 2:
        yield _warning(
            "PREPROCESSING",
            f"preprocessing leaves pixels at 0..255 (divisor 1) with std {list(steps.std)}: was the model trained so?",
        )


def odd_proxies(proxies: Tensor, bundle: ModelBundle) -> Iterator[Finding]:
    """Classes whose proxies are dead, or the same as another's.

    Args:
        proxies: (C, K, D).
        bundle: Names the classes.
    """
    norms_C = proxies.flatten(1).float().norm(dim=1)
    dead = [bundle.classes[i] for i in torch.nonzero(norms_C < SMALL_NORM).flatten().tolist()]
    if dead:
        yield _warning("PROXIES_DEAD", f"{len(dead)} class(es) have a proxy of length 0: {_named(dead)}")
    pair = _same_rows(proxies[:, 0])
    if pair is not None:
        first, second = (bundle.classes[i] for i in pair)
        yield _warning("PROXIES_EQUAL", f"proxies of classes {first!r} and {second!r} point the same way")
    if len(bundle.classes) == 1:
        yield _warning("ONE_CLASS", "there is one class, so no sample can be confused with another")
    normalised = "" if isinstance(bundle.loss, PmlSettings) else "; the loss normalises them"
    yield Finding(
        level=Level.OK,
        code="PROXY_NORMS",
        message=f"proxies have lengths {norms_C.min():.3g} to {norms_C.max():.3g}{normalised}",
    )


def odd_head(head: Head) -> Iterator[Finding]:
    """A last layer that throws dimensions away."""
    weight_DF = head.weight_DF
    dead_rows = int((weight_DF.norm(dim=1) < SMALL_NORM).sum())
    dead_columns = int((weight_DF.norm(dim=0) < SMALL_NORM).sum())
    if dead_rows:
        yield _warning(
            "HEAD_DEAD", f"head.weight: {dead_rows} of {len(weight_DF)} embedding dimensions are always constant"
        )
    if dead_columns:
        yield _warning("HEAD_DEAD", f"head.weight: {dead_columns} of {weight_DF.shape[1]} features are ignored")


def odd_batch_norm(backbone: nn.Module) -> Iterator[Finding]:
    """Running statistics that no training could have left."""
    for name, module in backbone.named_modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor) and bool((variance < 0).any()):
            yield Finding(level=Level.ERROR, code="BATCH_NORM", message=f"backbone.{name}.running_var is negative")


def odd_outputs(backbone: nn.Module, head: Head, bundle: ModelBundle) -> Iterator[Finding]:
    """What random images become: NaN, dead features, or one and the same embedding for all.

    Args:
        backbone: With its weights.
        head: The last linear layer.
        bundle: Says what images look like.
    """
    generator = torch.Generator().manual_seed(PROBE_SEED)
    images = torch.randn(PROBE_IMAGES, *bundle.preprocessing.output_shape, generator=generator)
    with torch.inference_mode():
        features_BF = backbone(images)
        embeddings_BD = F.normalize(head.embed(features_BF), dim=1)
    if not torch.isfinite(embeddings_BD).all():
        yield Finding(level=Level.ERROR, code="OUTPUT_NOT_FINITE", message="random images become NaN or infinite")
        return
    if bool((embeddings_BD @ embeddings_BD.T > SAME_COSINE).all()):
        yield _warning("OUTPUT_COLLAPSED", f"{PROBE_IMAGES} random images all have the same embedding")
    dead = int((features_BF.abs().amax(dim=0) == 0).sum())
    if dead > features_BF.shape[1] // 2:
        yield _warning("FEATURES_DEAD", f"{dead} of {features_BF.shape[1]} features are 0 for every random image")


def odd_loss(bundle: ModelBundle) -> Iterator[Finding]:
    """Settings that make the loss flat or numerically wild."""
    if isinstance(bundle.loss, ProxyNcaSettings) and bundle.loss.scale > 30:
        yield _warning(
            "LOSS_SCALE",
            f"loss.scale {bundle.loss.scale} multiplies both embeddings and proxies, so distances by its square "
            f"({bundle.loss.scale**2:g}): if it was a softmax scale in training, give its square root",
        )
    if isinstance(bundle.loss, ArcFaceSettings) and 0 < bundle.loss.margin < 2:
        yield _warning(
            "LOSS_SCALE",
            f"loss.margin {bundle.loss.margin} is in degrees: if it was radians in training, give "
            f"{math.degrees(bundle.loss.margin):.4g}",
        )
    if isinstance(bundle.loss, NormalizedSoftmaxSettings) and bundle.loss.temperature > 1:
        yield _warning(
            "LOSS_SCALE",
            f"loss.temperature {bundle.loss.temperature} divides cosines, which makes the loss flat: if it was a scale "
            f"in training, give {1 / bundle.loss.temperature:.4g}",
        )


def _same_rows(rows_CD: Tensor) -> tuple[int, int] | None:
    """The first two rows with one direction; blocked, so that no C x C matrix is held."""
    unit_CD = F.normalize(rows_CD.float(), dim=1)
    for start in range(0, len(unit_CD), 512):
        cosine_BC = unit_CD[start : start + 512] @ unit_CD.T
        above = torch.nonzero(cosine_BC.triu(diagonal=start + 1) > SAME_COSINE)
        if len(above):
            return start + int(above[0, 0]), int(above[0, 1])
    return None


def _warning(code: str, message: str) -> Finding:
    return Finding(level=Level.WARNING, code=code, message=message)


def _named(names: list[str]) -> str:
    return ", ".join(map(repr, names[:MAX_NAMED])) + (", ..." if len(names) > MAX_NAMED else "")
