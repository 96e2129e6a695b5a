"""Claims: the rules as they are written down, and the verdicts by them."""

from __future__ import annotations

from pathlib import Path

from rdslib.figures.claims import CLAIMS, RULE

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "researcher.md"


def test_the_guide_has_the_rules():
    text = GUIDE.read_text()
    assert RULE in " ".join(text.split())
    for name, claim in CLAIMS.items():
        assert f"| {claim.says} (`{name}`) | {claim.by} | {claim.margins} |" in text
