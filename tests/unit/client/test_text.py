from __future__ import annotations

import pytest

from services.client.cli.text import printable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain text, ünïcode, 猫, 👩\u200d🚀", "plain text, ünïcode, 猫, 👩\u200d🚀"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\tb\nc\rd\x00", "a\\x09b\\x0ac\\x0dd\\x00"),
        ("\x7f", "\\x7f"),
        ("right\u202eto left\u2066", "right\\u202eto left\\u2066"),
        ("line\u2028line\u2029", "line\\u2028line\\u2029"),
        ("\ud800", "\\ud800"),
        ("no\u00a0break", "no\u00a0break"),
        ("", ""),
    ],
)
def test_nothing_can_steer_a_terminal(given: str, shown: str) -> None:
    assert printable(given) == shown
