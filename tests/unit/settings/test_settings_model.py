from __future__ import annotations

import copy
import dataclasses
import hashlib
import hmac
import pickle
import re

import pytest

from z4j_fastapi.settings import AgentSettings, load_settings

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SECRETS = {
    "token": "hunter2-token",
    "hmac_secret": KEY,
    "reconcile_api_key": "hunter2-key",
    "proxy": "http://hunter2-user:hunter2-pw@proxy:3128",
}
GOOD = {"brain_url": "https://brain.example.com/z4j", "project_id": "default", **SECRETS}


@pytest.fixture
def settings():
    return load_settings(GOOD, environ={})


def assert_hides_secrets(text):
    for secret in ("hunter2", KEY, KEY.rstrip("=")):
        assert secret not in text


@pytest.mark.parametrize("form", [repr, str, "{}".format, "{!r}".format, "%s".__mod__])
def test_settings_when_shown_then_hide_secrets(settings, form):
    text = form(settings)
    assert_hides_secrets(text)
    assert "https://brain.example.com/z4j" in text
    assert "http://***@proxy:3128" in text


def test_settings_when_turned_into_other_values_then_hide_secrets(settings):
    for value in (
        dataclasses.asdict(settings),
        dataclasses.astuple(settings),
        [getattr(settings, field.name) for field in dataclasses.fields(settings)],
        settings.identity,
        settings.agent_tag,
        settings.deployment_fingerprint,
        settings.warnings,
        {settings: settings},
    ):
        assert_hides_secrets(repr(value))
        assert_hides_secrets(str(value))
    assert not hasattr(settings, "__dict__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_settings_when_pickled_then_refused(settings, protocol):
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps(settings, protocol)
    assert_hides_secrets(str(caught.value))


def test_settings_when_assigned_to_then_refused(settings):
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.token = "x"
    with pytest.raises(TypeError):
        settings.tags["x"] = "y"


def test_settings_when_copied_then_are_the_same(settings):
    assert copy.copy(settings) is settings
    assert copy.deepcopy(settings) is settings


def test_settings_when_equal_then_hash_and_identity_are_equal(settings):
    same = load_settings(GOOD, environ={"Z4J_TOKN": "only a warning"})
    assert same == settings
    assert hash(same) == hash(settings)
    assert same.identity == settings.identity


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "other"),
        ("hmac_secret", "_" * 42 + "8="),
        ("project_id", "other"),
        ("proxy", "http://hunter2-user:other@proxy:3128"),
        ("reconcile_api_key", "other"),
        ("tags", {"a": "b"}),
        ("engines", ["arq"]),
        ("shutdown_timeout", 5.5),
        ("buffer_path", "/x"),
    ],
)
def test_identity_when_any_setting_differs_then_differs(settings, name, value):
    assert load_settings({**GOOD, name: value}, environ={}).identity != settings.identity


def test_identity_when_tags_are_in_another_order_then_the_same():
    one = load_settings({**GOOD, "tags": {"a": "1", "b": "2"}}, environ={})
    two = load_settings({**GOOD, "tags": {"b": "2", "a": "1"}}, environ={})
    assert one.identity == two.identity
    assert hash(one) == hash(two)


def test_fingerprint_when_key_is_written_differently_then_the_same(settings):
    padded = load_settings({**GOOD, "hmac_secret": f" {KEY.rstrip('=')} "}, environ={})
    assert padded.deployment_fingerprint == settings.deployment_fingerprint
    other_token = load_settings({**GOOD, "token": "x"}, environ={})
    assert other_token.deployment_fingerprint == settings.deployment_fingerprint
    assert other_token.agent_tag != settings.agent_tag


@pytest.mark.parametrize(
    ("name", "value"), [("project_id", "default2"), ("hmac_secret", "_" * 42 + "8=")]
)
def test_fingerprint_when_project_or_key_differs_then_differs(settings, name, value):
    other = load_settings({**GOOD, name: value}, environ={})
    assert other.deployment_fingerprint != settings.deployment_fingerprint


def test_tags_when_computed_then_are_keyed_hashes_of_fixed_length(settings):
    key = bytes(range(32))
    assert settings.signing_key == key
    expected = hmac.new(key, b"z4j-fastapi outbox\0default", hashlib.sha256).hexdigest()[:24]
    assert settings.deployment_fingerprint == expected
    assert re.fullmatch("[0-9a-f]{24}", settings.agent_tag)


@pytest.mark.parametrize(
    ("brain_url", "websocket_url"),
    [
        ("https://brain.example.com", "wss://brain.example.com/ws/agent"),
        ("https://brain.example.com/z4j/", "wss://brain.example.com/z4j/ws/agent"),
        ("http://localhost:7700", "ws://localhost:7700/ws/agent"),
        ("ws://[::1]:7700/a", "ws://[::1]:7700/a/ws/agent"),
        ("https://http.example.com/http", "wss://http.example.com/http/ws/agent"),
    ],
)
def test_websocket_url_when_brain_url_is_given_then_follows_from_it(brain_url, websocket_url):
    settings = load_settings({**GOOD, "brain_url": brain_url}, environ={})
    assert settings.websocket_url == websocket_url


@pytest.mark.parametrize(
    ("overrides", "environ", "level"),
    [
        ({}, {}, None),
        ({"log_level": "info"}, {}, "INFO"),
        ({}, {"Z4J_LOG_LEVEL": "debug"}, "DEBUG"),
        ({"log_level": ""}, {"Z4J_LOG_LEVEL": "debug"}, None),
    ],
)
def test_explicit_log_level_when_not_given_then_none(overrides, environ, level):
    assert load_settings({**GOOD, **overrides}, environ=environ).explicit_log_level == level


def test_proxy_url_when_given_then_holds_the_credentials(settings):
    assert settings.proxy_url == SECRETS["proxy"]
    assert load_settings({**GOOD, "proxy": "none"}, environ={}).proxy_url == "none"
    assert load_settings({**GOOD, "proxy": None}, environ={}).proxy_url is None


def test_settings_when_made_by_hand_then_required_values_must_be_given():
    with pytest.raises(TypeError, match="brain_url"):
        AgentSettings()
