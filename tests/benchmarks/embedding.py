"""What the embedding service costs beside bare ONNX Runtime: `python -m tests.benchmarks.embedding [--rounds 5]`.

A ResNet-18 of random weights at 224 x 224, JPEG photos of 500 x 375 pixels (noise, smoothed), batches of 32, all on the
CPU. Rounds of each kind take turns, and the best of each counts, so that other work on the machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1 import resources_pb2
from PIL import Image
from torch import nn

from eif_engine.data.images import ImageLimits
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.export import export_onnx
from eif_engine.models.onnx_bundle import read_onnx_bundle
from eif_engine.models.save import save_bundle, state_dict_of
from services.embedding.images import prepare
from services.embedding.session import CPU, open_session
from tests.embedding_server import PARENT, EmbeddingProcess, running_embedding
from tests.stores import local_place

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 32
IMAGENET = {"resize": 256, "center_crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def exported(folder: Path) -> Path:
    """The bundle; random weights, since only the time counts."""
    torch.manual_seed(0)
    architecture = Architecture(name="resnet18")
    state = state_dict_of(
        backbone=build_backbone(architecture).module, head=nn.Linear(512, 128), proxies=torch.randn(2, 128)
    )
    save_bundle(
        folder / "model",
        architecture=architecture,
        loss=ProxyNcaSettings(),
        classes=["a", "b"],
        preprocessing=Preprocessing.model_validate(IMAGENET),
        state_dict=state,
    )
    return export_onnx(folder / "model", folder / "onnx", [photo(0)]).onnx_json.parent


def kinds(server: EmbeddingProcess, bundle: Path, photos: list[bytes], threads: int) -> dict[str, Callable[[], object]]:
    """What is timed; each runs some number of batches of 32, by its name."""
    description = read_onnx_bundle(bundle)
    session = open_session(bundle / description.onnx.file, provider=CPU, threads=threads)
    limits = ImageLimits()

    def decode() -> list[object]:
        return [prepare(image, description.preprocessing, limits=limits) for image in photos]

    ready = np.stack([prepare(image, description.preprocessing, limits=limits) for image in photos])
    request = pb.EmbedImagesRequest(
        model=f"{PARENT}/models/m", images=[resources_pb2.ImageInput(content=image) for image in photos]
    )

    def at_once(callers: int) -> Callable[[], object]:
        def call() -> object:
            with ThreadPoolExecutor(callers) as pool:
                return list(pool.map(lambda _: server.stub.EmbedImages(request), range(4)))

        return call

    return {
        "bare_run": lambda: [session.run(["embedding"], {"images": ready}) for _ in range(4)],
        "decode": lambda: [decode() for _ in range(4)],
        "service_1_caller": at_once(1),
        "service_2_callers": at_once(2),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    photos = [photo(seed) for seed in range(BATCH)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = exported(folder)
        place = local_place(folder)
        with running_embedding(place, folder / "state", threads=str(options.threads), device="cpu") as server:
            process = psutil.Process(server.process.pid)
            figures = {
                "seconds_to_serving": server.seconds_to_serving,
                "idle_rss_mib": process.memory_info().rss / 2**20,
            }
            server.create_model(place.uri("onnx"))
            figures["rss_with_model_mib"] = process.memory_info().rss / 2**20
            figures |= timed(kinds(server, bundle, photos, options.threads), options.rounds)
            figures["rss_after_mib"] = rss_mib(process)
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in figures.items()}, indent=1) + "\n")


def rss_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 2**20)


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Images a second of each kind, the best of its rounds; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {f"{name}_images_per_s": 4 * BATCH / min(of_kind[1:]) for name, of_kind in seconds.items()}


if __name__ == "__main__":
    main()
