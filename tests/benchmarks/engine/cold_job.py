"""A whole job with an empty cache against the bare forward passes that it cannot do without."""

from __future__ import annotations

import os
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from eif_engine.data.features import BATCH_SIZE
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.save import save_bundle, state_dict_of
from services.influence.messages import SucceededMessage
from services.influence.spec import Artifact, RunOptions
from services.influence.worker.settings import WorkerSettings
from tests.job_world import JobWorld

IMAGENET = {"resize": 256, "center_crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
BACKBONES = {"mobilenet_v2": 1280, "resnet50": 2048}
DIM, CLASSES, TRAIN, TEST = 128, 32, 384, 128


def cold_job(device: str, _shared: Path) -> dict[str, float]:
    """A cold rank job on JPEG photos, in the process of a job, over bare forward passes on preloaded tensors."""
    figures: dict[str, float] = {"images": TRAIN + TEST}
    for name in BACKBONES:
        with tempfile.TemporaryDirectory() as folder:
            world, model = _world(Path(folder), name)
            bare = _bare_seconds(name, device)
            job = _job_seconds(world, model, device)
            figures |= {f"{name}_bare_s": bare, f"{name}_job_s": job, f"{name}_job_over_bare": job / bare}
    return figures


def _world(folder: Path, name: str) -> tuple[JobWorld, Artifact]:
    """Photos of 500 x 375 pixels and a model of random weights: only the time counts."""
    world = JobWorld(folder)
    torch.manual_seed(0)
    architecture = Architecture(name=name)
    state = state_dict_of(
        backbone=build_backbone(architecture).module,
        head=nn.Linear(BACKBONES[name], DIM),
        proxies=torch.randn(CLASSES, DIM),
    )
    save_bundle(
        folder / "objects" / "model",
        architecture=architecture,
        loss=ProxyNcaSettings(),
        classes=[f"c{label}" for label in range(CLASSES)],
        preprocessing=Preprocessing.model_validate(IMAGENET),
        state_dict=state,
    )
    return world, Artifact(uri=world.place.uri("model/model.json"))


def _bare_seconds(name: str, device: str) -> float:
    """The backbone on preloaded batches, in inference mode: what a user would write by hand."""
    backbone = build_backbone(Architecture(name=name)).module.eval().to(device)
    preprocessing = Preprocessing.model_validate(IMAGENET)
    pixels = [preprocessing.apply(decode_image(photo(seed), uri="photo")) for seed in range(TRAIN + TEST)]
    starts = [*range(0, TRAIN, BATCH_SIZE), *range(TRAIN, TRAIN + TEST, BATCH_SIZE)]
    batches = [torch.from_numpy(np.stack(pixels[start : start + BATCH_SIZE])) for start in starts]
    with torch.inference_mode():
        backbone(batches[0].to(device))
        start_s = time.perf_counter()
        for batch in batches:
            backbone(batch.to(device)).cpu()
        return time.perf_counter() - start_s


def _job_seconds(world: JobWorld, model: Artifact, device: str) -> float:
    spec = world.rank_spec(
        model=model,
        train_manifest=_manifest(world, "train", range(TRAIN)),
        test_manifest=_manifest(world, "test", range(TRAIN, TRAIN + TEST)),
        run=RunOptions(device=device),
    )
    start_s = time.perf_counter()
    message = world.run(world.request(spec), settings=WorkerSettings(decode_threads=os.cpu_count() or 1))
    taken_s = time.perf_counter() - start_s
    assert isinstance(message, SucceededMessage), message
    return taken_s


def _manifest(world: JobWorld, split: str, seeds: range) -> Artifact:
    rows = []
    for seed in seeds:
        uri = world.put(f"{split}/{seed}.jpg", photo(seed))
        rows.append({"id": f"{split}-{seed}", "uri": uri, "label": f"c{seed % CLASSES}"})
    return world.manifest(f"{split}.jsonl", rows)


def photo(seed: int) -> bytes:
    """A JPEG of smoothed noise."""
    noise: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
