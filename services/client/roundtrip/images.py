"""Where other programs find the images of a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.review import ReviewItem


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Replaces the start of URIs: `s3://bucket/` by `/mnt/bucket/`, or by what a web server calls it."""

    start: str
    by: str

    @classmethod
    def parse(cls, text: str) -> Rewrite:
        """From `START=BY`. Raises RoundTripError."""
        start, separator, by = text.partition("=")
        if not separator or not start:
            raise RoundTripError(f"{text!r} is not START=BY, for example s3://bucket/=/mnt/bucket/")
        return cls(start=start, by=by)


def image_of(item: ReviewItem, rewrites: tuple[Rewrite, ...] = ()) -> str:
    """The URI of an image; of one in a tar, the tar's with the member behind a #. The first rewrite to fit counts."""
    uri = f"{item.uri}#{item.member}" if item.member else item.uri
    for rewrite in rewrites:
        if uri.startswith(rewrite.start):
            return rewrite.by + uri.removeprefix(rewrite.start)
    return uri
