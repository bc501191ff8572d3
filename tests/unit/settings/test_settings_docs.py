from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.settings import SETTINGS, load_settings

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reference" / "configuration.md"


@pytest.fixture(scope="module")
def generator():
    path = ROOT / "scripts" / "generate-config-docs"
    loader = importlib.machinery.SourceFileLoader("generate_config_docs", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_configuration_page_when_compared_with_the_model_then_is_up_to_date(generator):
    assert PAGE.read_text(encoding="utf-8") == generator.render(), (
        "run .venv/bin/python scripts/generate-config-docs"
    )


def test_configuration_page_when_read_then_has_one_row_for_every_setting():
    rows = re.findall(
        r"^\| `([a-z_0-9]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(name for name, _ in rows) == sorted(SETTINGS)
    for name, row in rows:
        assert row.count(" | ") == 3, name
        variable = SETTINGS[name].environment
        assert f"`{variable}`" in row if variable else row.startswith(" none |")


def test_configuration_page_when_it_shows_an_error_then_it_is_the_real_one():
    with pytest.raises(ConfigError) as caught:
        load_settings(
            {
                "brain_url": "https://h",
                "project_id": "p",
                "hmac_secret": "A" * 43,
                "heartbeat_seconds": 0,
            },
            environ={},
        )
    assert f"```text\n{caught.value}\n```" in PAGE.read_text(encoding="utf-8")


def test_check_when_page_is_out_of_date_then_says_so(generator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator, "TARGET", tmp_path / "configuration.md")
    assert generator.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
