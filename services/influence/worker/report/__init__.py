"""The report of an audit: one HTML file that needs nothing but a browser.

tables, figures, differences  ->  bounded rows  ->  thumbnails within what is left  ->  one page
"""

from services.influence.worker.report.page import write_report
from services.influence.worker.report.source import (
    Difference,
    FindingChange,
    ReportSource,
    RuleResult,
    SampleKey,
    Verdict,
)
from services.influence.worker.report.thumbnails import thumbnail

__all__ = [
    "Difference",
    "FindingChange",
    "ReportSource",
    "RuleResult",
    "SampleKey",
    "Verdict",
    "thumbnail",
    "write_report",
]
