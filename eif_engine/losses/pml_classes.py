"""Which losses of pytorch-metric-learning give every sample a value of its own, and how they are called. No torch.

Not among them are losses that are one value for a whole batch (P2SGrad, Histogram, Manifold, DynamicSoftMargin, VICReg,
ThresholdConsistentMargin), losses in which the value of a sample depends on the rest of its batch (FastAP, SmoothAP,
PNP, RankedList, Instance, NPairs, LiftedStructure, IntraPairVariance, Margin), and Proxy-Anchor, whose terms are those
of classes: its form per sample is the loss `proxy_anchor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass(frozen=True, kw_only=True)
class ProxyClass:
    """A loss with learnt vectors of the classes.

    Attributes:
        parameter: Their name in the state dict.
        columns: Whether they are (D, C K), and not (C K, D).
        centers_argument: Argument that says how many there are of each class.
        centers: Its default.
        sizes: Arguments that arrays are sized by, with the most that they may be.
    """

    parameter: str
    columns: bool = True
    centers_argument: str | None = None
    centers: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)

    def centers_per_class(self, arguments: Mapping[str, object]) -> int:
        """K."""
        given = arguments.get(self.centers_argument or "", self.centers)
        return given if isinstance(given, int) else self.centers


MAX_CENTERS = 1000
_MAX_ANGULAR_MARGIN = 64
"""Terms of a polynomial in the cosine; the papers go to 4."""

PROXY_CLASSES = {
    "ArcFaceLoss": ProxyClass(parameter="W"),
    "CosFaceLoss": ProxyClass(parameter="W"),
    "LargeMarginSoftmaxLoss": ProxyClass(parameter="W", sizes={"margin": _MAX_ANGULAR_MARGIN}),
    "NormalizedSoftmaxLoss": ProxyClass(parameter="W"),
    "ProxyNCALoss": ProxyClass(parameter="proxies", columns=False),
    "SoftTripleLoss": ProxyClass(
        parameter="fc", centers_argument="centers_per_class", centers=10, sizes={"centers_per_class": MAX_CENTERS}
    ),
    "SphereFaceLoss": ProxyClass(parameter="W", sizes={"margin": _MAX_ANGULAR_MARGIN}),
    "SubCenterArcFaceLoss": ProxyClass(
        parameter="W", centers_argument="sub_centers", centers=3, sizes={"sub_centers": MAX_CENTERS}
    ),
}
"""Losses of samples against learnt vectors."""


class Shape(Enum):
    """Largest array that a loss makes of B samples, P representatives of which K are of one class, and D dimensions."""

    PAIRS = auto()
    """(B, P)."""
    PAIRS_BY_REPRESENTATIVE = auto()
    """(B K, P)."""
    PAIRS_BY_PAIR = auto()
    """(B K, B P)."""
    DIFFERENCES = auto()
    """(B, P, D)."""


BANK_CLASSES = {
    "AngularLoss": Shape.PAIRS_BY_REPRESENTATIVE,
    "CircleLoss": Shape.PAIRS,
    "ContrastiveLoss": Shape.PAIRS,
    "GeneralizedLiftedStructureLoss": Shape.PAIRS,
    "MultiSimilarityLoss": Shape.PAIRS,
    "NCALoss": Shape.PAIRS,
    "NTXentLoss": Shape.PAIRS_BY_PAIR,
    "SignalToNoiseRatioContrastiveLoss": Shape.DIFFERENCES,
    "SupConLoss": Shape.PAIRS,
    "TripletMarginLoss": Shape.PAIRS_BY_REPRESENTATIVE,
    "TupletMarginLoss": Shape.PAIRS_BY_PAIR,
}
"""Losses of pairs and triplets: of samples against a bank of representatives."""

TRIPLET_CLASSES = frozenset({"TripletMarginLoss"})
"""Of those, the ones made of triplets."""

DISTANCES = ("CosineSimilarity", "DotProductSimilarity", "LpDistance", "SNRDistance")
"""What the argument `distance` may name; each with its defaults."""


def known_classes() -> str:
    """For messages."""
    return f"{', '.join(PROXY_CLASSES)} (with learnt vectors), {', '.join(BANK_CLASSES)} (with a bank)"
