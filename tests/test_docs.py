"""The docs are true where a program can tell: the reference is new, links lead somewhere, commands exist, JSON parses."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from einhornpy.control.cli import cli

from .harness import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "examples").rglob("*.md"))]


def test_the_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "reference.md").read_text() == module.reference()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    known = {*cli.commands, "run"}
    for word in re.findall(r"(?:^ {4}|^\$ |`)einhornpy ([a-z]+)\b", page.read_text(), re.MULTILINE):
        assert word in known, word


def test_json_in_the_docs_parses() -> None:
    blocks = [block for page in PAGES for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks
    for block in blocks:
        json.loads(block)
