"""The pictures in a page: of explained pairs, and thumbnails in the room that is left."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from services.influence.worker.report.limits import MAX_EXPLANATION_BYTES
from services.influence.worker.report.payload import Payload, script_json
from services.influence.worker.report.sample_book import SampleBook
from services.influence.worker.report.source import ReportSource
from services.influence.worker.report.thumbnails import in_order_of_need, read_thumbnails

_OVERHEAD = 16
"""Bytes that a thumbnail takes beside its own, in JSON."""


def pictures_json(source: ReportSource, payload: Payload, *, room: int) -> str:
    """All pictures as JSON that may stand in a script element.

    Args:
        source: Where they come from.
        payload: The rows that they are for.
        room: Bytes that it may take.
    """
    pairs = _explanations(source, payload.book)
    order = _order(payload)
    left = room - len(script_json({"pairs": pairs, "samples": {}})) - _OVERHEAD * len(order)
    found = read_thumbnails(source.thumbnails, payload.book.keys, order, max_bytes=max(0, left) * 3 // 4)
    return script_json({"pairs": pairs, "samples": {place: _text(picture) for place, picture in found.items()}})


def _order(payload: Payload) -> Sequence[int]:
    """Every sample spoken of, the most needed first."""
    shown = list(in_order_of_need([section.pictures for section in payload.sections.values()]))
    kept = set(shown)
    return shown + [place for place in range(len(payload.book)) if place not in kept]


def _explanations(source: ReportSource, book: SampleBook) -> Sequence[tuple[int, int, str]]:
    """Pictures of explained pairs that the page shows, until their bytes are used up."""
    places = {sample_id: place for place, (split, sample_id) in enumerate(book.keys) if split == "test"}
    found, left = [], MAX_EXPLANATION_BYTES
    for (sample_id, neighbor_id), png in source.explanations.items():
        if sample_id in places and neighbor_id in places and len(png) <= left:
            found.append((places[sample_id], places[neighbor_id], _text(png)))
            left -= len(png)
    return found


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
