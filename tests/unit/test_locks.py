"""The locks fit pyproject.toml, each other, and the list of reasons."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
IMAGES = ("influence", "worker", "embedding")
NAME = re.compile(r"^([A-Za-z0-9_.-]+)")


def pins(path: Path) -> dict[str, set[str]]:
    """Versions by package; a package can have several, for different Pythons."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.fixture(scope="module")
def extras() -> dict[str, set[str]]:
    """Direct dependencies by extra, the base under an empty name."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {extra: {NAME.match(text).group(1).lower() for text in texts} for extra, texts in groups.items()}  # type: ignore[union-attr]  # every requirement starts with a name
    return {extra: found - {project["name"]} for extra, found in names.items()}


def test_every_dependency_is_locked(extras: dict[str, set[str]]) -> None:
    locked = {name.lower() for name in pins(REPO / "requirements.lock")}
    assert set().union(*extras.values()) <= locked


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_what_was_tested(image: str) -> None:
    everything, own = pins(REPO / "requirements.lock"), pins(REPO / "deploy" / "locks" / f"{image}.lock")
    assert own
    assert all(versions <= everything[name] for name, versions in own.items())


@pytest.mark.parametrize("image", ["influence", "embedding"])
def test_no_torch_where_none_is_needed(image: str) -> None:
    assert not {"torch", "torchvision", "triton"} & pins(REPO / "deploy" / "locks" / f"{image}.lock").keys()


@pytest.mark.parametrize(
    "lock", ["requirements.lock", *(f"deploy/locks/{image}.lock" for image in (*IMAGES, "gen", "build"))]
)
def test_locks_have_hashes_and_name_no_index(lock: str) -> None:
    text = (REPO / lock).read_text()
    assert not re.search(r"^--|://", text, re.MULTILINE)
    assert all("--hash=sha256:" in stanza for stanza in re.split(r"\n(?=[A-Za-z0-9])", text.strip()))


def test_every_dependency_has_its_reason(extras: dict[str, set[str]]) -> None:
    reasons = (REPO / "docs" / "decisions" / "dependencies.md").read_text()
    missing = {name for name in set().union(*extras.values()) if name not in reasons and not name.startswith("types-")}
    assert not missing
