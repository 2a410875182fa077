"""`python -m eif_engine export-onnx`: a model bundle as ONNX, verified."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export-onnx",
        help="write a model bundle as ONNX, verified against PyTorch",
        description="Write model.onnx and onnx.json from a model bundle once it agrees with PyTorch on real images.",
        epilog="Exit codes: 0 written, 1 not written; the message says why.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder with model.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        nargs="+",
        metavar="PATH",
        help="image files, or folders of them, to verify on",
    )
    parser.add_argument("--opset", type=int, default=18, help="ONNX opset (default 18)")
    parser.add_argument(
        "--max-difference",
        type=float,
        default=1e-3,
        metavar="X",
        help="largest accepted absolute difference of normalised embeddings (default 1e-3)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and print."""
    from eif_engine.models.export import MAX_IMAGES, export_onnx

    images = list(islice(_image_files(args.images), MAX_IMAGES))
    report = export_onnx(args.folder, args.out, images, opset=args.opset, max_difference=args.max_difference)
    found, bundle = report.verification, report.bundle
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"written: {report.onnx_json}", markup=False)
    console.print(
        f"opset {bundle.opset}, input {bundle.input.name} (any, {', '.join(map(str, bundle.input.shape))}), "
        f"embedding {bundle.embedding_dim}, features {bundle.feature_dim}"
    )
    console.print(
        f"max abs difference in normalised embeddings: {found.max_abs_difference:.3g} (limit {found.limit:g}), on "
        f"{found.images} image(s) in batches of {', '.join(map(str, found.batch_sizes))}"
    )
    return 0


def _image_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path
