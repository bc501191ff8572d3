from __future__ import annotations

import pytest

from z4j_fastapi.settings.description import Kind, Problem, Setting
from z4j_fastapi.settings.fields import SETTINGS


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (Setting(kind=Kind.INTEGER, meaning="", minimum=1), "a whole number, at least 1"),
        (
            Setting(kind=Kind.SECONDS, meaning="", minimum=0, maximum=60),
            "a number of seconds from 0 to 60",
        ),
        (Setting(kind=Kind.CHOICE, meaning="", choices=("a", "b")), "one of a, b"),
        (Setting(kind=Kind.TEXT, meaning="", maximum=5), "text of at most 5 characters"),
        (Setting(kind=Kind.TEXT, meaning=""), "text"),
    ],
)
def test_type_text_when_bounded_then_says_the_bounds(setting, text):
    assert setting.type_text == text


def test_settings_when_listed_then_each_is_described_and_secrets_are_marked():
    for name, setting in SETTINGS.items():
        assert setting.meaning.endswith("."), name
        assert setting.type_text, name
        assert setting.keyword or setting.environment, name
    secrets = {name for name, setting in SETTINGS.items() if setting.secret}
    assert secrets == {"token", "hmac_secret", "reconcile_api_key", "proxy"}


def test_problem_when_shown_then_names_field_and_variable():
    assert str(Problem(field="dev_mode", text="is wrong; fix it")) == "dev_mode: is wrong; fix it"
    problem = Problem(field="token", text="is wrong; fix it", environment="Z4J_TOKEN")
    assert str(problem) == "token (Z4J_TOKEN): is wrong; fix it"
