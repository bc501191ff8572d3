"""Whatever is configured: settings or one clear error, and never a secret in either."""

from __future__ import annotations

import base64
import dataclasses
import traceback
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.settings import SETTINGS, decode_hmac_secret, load_settings
from z4j_fastapi.settings.urls import UrlError, masked_url, normalise_brain_url, normalise_proxy_url

# Python's message about this pattern quotes the group's name.
BAD_NAME = "(?P<hunter2hunter2->x)"
# In every generated secret; long enough not to occur by chance.
MARK = "hunter2hunter2"
SECRET_NAMES = ("token", "hmac_secret", "reconcile_api_key")
PATTERN_NAMES = ("redaction_extra_key_patterns", "redaction_extra_value_patterns")
VARIABLES = [setting.environment for setting in SETTINGS.values() if setting.environment]
IGNORED = ["Z4J_BUFFER_PATH", "Z4J_BUFFER_DIR", "Z4J_RUNTIME_DIR", "Z4J_DEV_MODE", "Z4J_TOKN"]


class Raises:
    """An object whose every conversion fails, telling a secret."""

    scheme = host = "x"

    def __str__(self):
        raise RuntimeError(MARK)

    __repr__ = __index__ = __fspath__ = __len__ = __str__


texts = st.text(max_size=70) | st.text(st.characters(), max_size=8)
marked = st.builds(lambda a, b: a + MARK + b, texts, texts)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | marked
    | st.binary(max_size=8)
    | st.uuids()
    | st.datetimes()
    | st.builds(Raises)
    | st.builds(object)
    | marked.map(SecretStr)
    | marked.map(lambda text: text.encode("utf-8", "replace"))
    | st.sampled_from([Path("x"), int, datetime, lambda: MARK])
)
garbage = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(texts, inner, max_size=3)
        | st.frozensets(texts | st.integers(), max_size=3)
    ),
    max_leaves=5,
)
urls = st.builds(
    lambda scheme, user, host, port, rest: f"{scheme}://{user}{host}{port}{rest}",
    st.sampled_from(["http", "https", "ws", "wss", "ftp", ""]),
    st.sampled_from(["", f"u:{MARK}@", f"{MARK}@", ":@", "@"]),
    st.sampled_from(["localhost", "127.0.0.1", "[::1]", "brain.example.com", "", "[", "é", "a b"]),
    st.sampled_from(["", ":0", ":80", ":7700", ":99999", ":x", ":"]),
    st.sampled_from(["", "/", "/z4j/", f"/?token={MARK}", f"#{MARK}", "\\", "/\x00", "//"]),
)
keys = st.binary(min_size=0, max_size=48).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
# A few patterns only: trying one takes milliseconds.
overrides = st.fixed_dictionaries(
    {},
    optional={name: garbage | urls | keys for name in SETTINGS if name not in PATTERN_NAMES}
    | {
        name: st.lists(st.sampled_from(["pin", "(", "", "(a+)+$", BAD_NAME]), max_size=2)
        | st.integers()
        for name in PATTERN_NAMES
    },
)
environments = st.dictionaries(
    st.sampled_from(
        [name for name in VARIABLES if "REDACTION" not in name] + IGNORED + ["z4j_token", "OTHER"]
    ),
    texts | marked | urls | keys | st.sampled_from(["1", "0", "yes", "maybe", "a,b", "k=v"]),
    max_size=8,
)


def assert_hides(text):
    assert MARK not in text


def load(keywords, environ):
    """What came of it: settings and None, or None and the error."""
    try:
        return load_settings(keywords, environ=environ), None
    except ConfigError as error:
        return None, error


@given(overrides, environments)
@example({"proxy": f"http://u:{MARK}@p:1", "enabled": False}, {})
@example({"brain_url": f"https://u:{MARK}@h"}, {"Z4J_DISABLED": "1"})
@example({}, {"Z4J_TOKEN": MARK, "Z4J_HMAC_SECRET": MARK, "Z4J_LOG_LEVEL": MARK})
@hypothesis_settings(deadline=None)
def test_load_when_anything_is_given_then_settings_or_one_error_without_secrets(keywords, environ):
    # Free texts and paths show what they are given; only secrets and errors must not.
    settings, error = load(keywords, environ)
    if error is not None:
        assert_hides("".join(traceback.format_exception_only(type(error), error)))
        assert_hides(repr(error.problems) + repr(error.details) + repr(error.args))
        assert error.__context__ is None
        assert error.__cause__ is None
        assert error.problems
        for problem in error.problems:
            assert problem.split(" ")[0].rstrip(":") in SETTINGS
            assert "\n" not in problem
        return
    assert_hides(repr(settings.warnings))
    shown = dataclasses.asdict(settings)
    for name in (*SECRET_NAMES, "proxy"):
        assert_hides(repr(shown[name]))
    assert settings.identity == load_settings(keywords, environ=environ).identity
    if settings.enabled:
        assert len(settings.signing_key) >= 32
        assert settings.websocket_url.startswith(("ws://", "wss://"))
        assert len(settings.deployment_fingerprint) == 24


@given(token=marked, api_key=marked, user=st.sampled_from(["u", MARK]))
@hypothesis_settings(deadline=None)
def test_settings_when_valid_then_no_form_shows_a_secret(token, api_key, user):
    keywords = {
        "brain_url": "https://h",
        "project_id": "p",
        "token": token,
        "reconcile_api_key": api_key,
        "hmac_secret": base64.urlsafe_b64encode(MARK.encode() * 3).decode(),
        "proxy": f"http://{user}:{MARK}@p:1",
    }
    settings, error = load(keywords, {})
    if error is not None:
        assert_hides(str(error))
        return
    for text in (repr(settings), str(settings), repr(dataclasses.asdict(settings))):
        assert_hides(text)
        assert keywords["hmac_secret"] not in text


@given(st.text(max_size=60) | keys)
@hypothesis_settings(deadline=None)
def test_decode_hmac_secret_when_any_text_then_key_or_config_error(text):
    try:
        key = decode_hmac_secret(text)
    except ConfigError:
        return
    assert len(key) >= 32
    assert base64.urlsafe_b64encode(key).decode().rstrip("=")[:-1] in text


@given(st.text(max_size=40) | urls)
@hypothesis_settings(deadline=None)
def test_normalise_when_any_text_then_url_or_error_and_stable(text):
    for normalise in (normalise_brain_url, normalise_proxy_url):
        try:
            normal = normalise(text)
        except UrlError as error:
            assert_hides(str(error))
        else:
            assert normalise(normal) == normal
            assert_hides(masked_url(normal))


@given(urls | st.text(max_size=40))
@hypothesis_settings(deadline=None)
def test_masked_url_when_any_text_then_never_raises(text):
    masked_url(text)


@pytest.mark.parametrize("name", SETTINGS)
@given(value=garbage)
@hypothesis_settings(deadline=None, max_examples=20)
def test_load_when_one_setting_is_garbage_then_the_others_are_not_blamed(name, value):
    if name in PATTERN_NAMES and isinstance(value, (list, tuple, set, frozenset)):
        return
    good = {
        "brain_url": "https://h",
        "token": "t",
        "hmac_secret": base64.urlsafe_b64encode(bytes(32)).decode(),
        "project_id": "p",
    }
    _, error = load({**good, name: value}, {})
    if error is not None:
        assert [problem.split(" ")[0].rstrip(":") for problem in error.problems] == [name]
