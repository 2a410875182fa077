"""Seconds of a query through the whole network: `OMP_NUM_THREADS=1 python -m tests.benchmarks.scope`.

2,720 images of 32 x 32 pixels (noise), the conv4 backbone of random weights with a head of 128, ProxyNCA++ with 136
proxies, batches of 64. Processor seconds of the second query, when the losses at theta_0 are known, beside a bare pass.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

from eif_engine.config import FirstOrder, InfluenceConfig, QueryKind, UnitStep
from eif_engine.jobs.queries import pair_query, row_pairs
from eif_engine.jobs.scope import rank_scope
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.head import Head
from eif_engine.models.network import Network
from eif_engine.models.small import conv4

SAMPLES, CLASSES, BATCH = 2720, 136, 64
CONFIGS = {
    "exact, two thetas": InfluenceConfig(step=UnitStep(radius=1.0)),
    "first order": InfluenceConfig(step=FirstOrder()),
}


def bare_pass(network: Network, images_NCHW: Tensor) -> float:
    """Seconds."""
    start = time.process_time()
    with torch.no_grad():
        for batch in torch.split(images_NCHW, BATCH):
            network(batch)
    return time.process_time() - start


def second_query(network: Network, images_NCHW: Tensor, pattern: str, config: InfluenceConfig) -> float:
    """Seconds."""
    proxies_CD = torch.randn(CLASSES, 128)
    test_MCHW = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        pairs = row_pairs([(0, 1), (2, 3)], network(test_MCHW))
    ranked = rank_scope(
        network=network,
        pattern=pattern,
        loss=ProxyNCA(proxies_CD),
        train_batches=torch.split(images_NCHW, BATCH),
        train_labels_N=torch.arange(SAMPLES) % CLASSES,
        test_images=lambda rows: test_MCHW[list(rows)],
        queries=[pair_query(pair, list("0123"), QueryKind.CONFUSION_PAIRS) for pair in pairs],
        config=config,
        dtype=torch.float32,
    )
    next(ranked)
    start = time.process_time()
    next(ranked)
    return time.process_time() - start


def main() -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Network(conv4(), Head(torch.randn(128, 512), torch.zeros(128))).eval()
    images_NCHW = torch.rand(SAMPLES, 1, 32, 32)
    bare_pass(network, images_NCHW)
    bare = bare_pass(network, images_NCHW)
    sys.stdout.write(f"| scope | step | seconds | bare passes ({bare:.1f} s) |\n|---|---|---|---|\n")
    for pattern in ("*", "head.weight"):
        for name, config in CONFIGS.items():
            seconds = second_query(network, images_NCHW, pattern, config)
            sys.stdout.write(f"| `{pattern}` | {name} | {seconds:.1f} | {seconds / bare:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
