"""`python -m eif_engine explain`: why a model finds two images alike."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eif_engine.cli.output import write_bytes
from eif_engine.errors import ImageInvalid, InvalidInput

if TYPE_CHECKING:
    from PIL import Image

    from eif_engine.jobs.explain import Explanation

TOP = 10


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="say which parts of two images make them similar, with a picture",
        description="Match the parts of two images (DIML), print those that add most, and draw them.",
        epilog="Exit codes: 0 done, 1 the input is wrong (the message says what).",
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER", help="the folder with model.json")
    parser.add_argument("first", type=Path, metavar="IMAGE_A", help="an image file")
    parser.add_argument("second", type=Path, metavar="IMAGE_B", help="another")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.png", help="where to write the picture")
    parser.add_argument(
        "--top", type=int, default=TOP, metavar="K", help="pairs of parts to print (default %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.05,
        metavar="T",
        help="the larger, the more the mass of a part spreads (default %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain, draw and print."""
    from eif_engine.jobs.explain import explain_pairs
    from eif_engine.jobs.picture import Subject, draw_explanation
    from eif_engine.matching_config import MatchingConfig
    from eif_engine.models.bundle import read_bundle
    from eif_engine.models.checkpoint import load_model

    if args.top < 0:
        raise InvalidInput(f"--top must be at least 0, not {args.top}")
    config = MatchingConfig(temperature=args.temperature)
    name = read_bundle(args.folder).architecture.name
    model = load_model(args.folder, device=args.device)
    first, second = (_read(path) for path in (args.first, args.second))
    preprocessing = model.preprocessing
    pixels = (preprocessing.apply(first), preprocessing.apply(second))
    (explanation,) = explain_pairs(model, [pixels], config, name=name)
    one, other = Subject(first, str(args.first)), Subject(second, str(args.second))
    write_bytes(args.out, draw_explanation(explanation, one, other, preprocessing))
    _print(explanation, args.top, args.out)
    return 0


def _read(path: Path) -> Image.Image:
    from eif_engine.data.images import decode_image

    try:
        return decode_image(path.read_bytes(), uri=str(path))
    except OSError as error:
        raise ImageInvalid(f"{path}: cannot be read: {error.strerror}", uri=str(path)) from error


def _print(explanation: Explanation, top: int, out: Path) -> None:
    from eif_engine.jobs.explain import links

    console = Console(highlight=False)
    console.print(f"similarity (cosine of the embeddings) {explanation.similarity:.4f}")
    console.print(
        f"matched similarity {explanation.matched_similarity:.4f}, the sum over all pairs of parts of a grid of "
        f"{explanation.rows} x {explanation.columns}"
    )
    table = Table("part of A", "part of B", "flow", "cosine", "adds", title="strongest links", title_justify="left")
    for link in links(explanation)[:top]:
        parts = (divmod(part, explanation.columns) for part in (link.part, link.neighbor_part))
        places = [f"row {row + 1}, column {column + 1}" for row, column in parts]
        table.add_row(*places, f"{link.flow:.4f}", f"{link.similarity:.3f}", f"{link.contribution:+.4f}")
    console.print(table)
    _print_groups(console, explanation.group_shares)
    console.print(f"written: {escape(str(out))}", soft_wrap=True)


def _print_groups(console: Console, shares: Sequence[float]) -> None:
    if shares:
        table = Table("attention group", "share of the cosine")
        for group, share in enumerate(shares, start=1):
            table.add_row(str(group), f"{share:+.4f}")
        console.print(table)
