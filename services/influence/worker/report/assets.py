"""Style and program of the page: package files joined in order, and the policy that lets only them run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

STYLES = ("tokens.css", "layout.css", "overview.css", "tables.css", "confusions.css", "sample.css", "print.css")
PROGRAMS = (
    "dom.js",
    "data.js",
    "pieces.js",
    "table.js",
    "listings.js",
    "confusions.js",
    "sample.js",
    "search.js",
    "page.js",
)


@cache
def style() -> str:
    """The style sheet."""
    return "\n".join(_read(name) for name in STYLES)


@cache
def program() -> str:
    """The program: one closure, so that nothing of it is global."""
    body = "\n".join(_read(name) for name in PROGRAMS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


@cache
def content_policy() -> str:
    """Content-Security-Policy: this style, this program, pictures in the file itself, and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style())}'",
            f"script-src '{_digest(program())}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")
