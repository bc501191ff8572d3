from __future__ import annotations

import pytest

from z4j_fastapi.settings import LIFESPAN_HANDLES, SETTING_KEYWORDS, check_keyword_names

# config-and-cli.md section 3, without app, inner_lifespan and container.
PROMISED = {
    "brain_url",
    "token",
    "project_id",
    "hmac_secret",
    "environment",
    "transport",
    "log_level",
    "engines",
    "schedulers",
    "tags",
    "dev_mode",
    "strict_mode",
    "autostart",
    "heartbeat_seconds",
    "buffer_path",
    "buffer_max_events",
    "buffer_max_bytes",
    "max_payload_bytes",
    "agent_name",
    "agent_id",
    "worker_role",
    "redaction_extra_key_patterns",
    "redaction_extra_value_patterns",
    "redaction_defaults_enabled",
    "reconcile_api_key",
    "dev_brain",
    "buffer_sync",
    "max_event_bytes",
    "shutdown_timeout",
    "enabled",
    "ca_file",
    "proxy",
}


def test_setting_keywords_when_compared_with_the_contract_then_are_the_same():
    assert SETTING_KEYWORDS == PROMISED


def test_handles_when_compared_with_settings_then_do_not_overlap():
    assert not LIFESPAN_HANDLES & SETTING_KEYWORDS


def test_check_when_all_known_then_passes():
    check_keyword_names(["token"], SETTING_KEYWORDS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tokn", "token"),
        ("hmac_key", "hmac_secret"),
        ("heartbeat_second", "heartbeat_seconds"),
        ("arq_redis_setting", "arq_redis_settings"),
    ],
)
def test_check_when_misspelt_then_suggests(name, meant):
    with pytest.raises(TypeError) as caught:
        check_keyword_names([name], SETTING_KEYWORDS | LIFESPAN_HANDLES)
    text = str(caught.value)
    assert text.startswith(f"z4j_lifespan() got an unexpected keyword argument '{name}'")
    assert f"did you mean '{meant}'?" in text


def test_check_when_nothing_is_close_then_names_the_caller_and_suggests_nothing():
    with pytest.raises(TypeError) as caught:
        check_keyword_names(["zzzzz"], SETTING_KEYWORDS, caller="install_z4j")
    assert str(caught.value) == "install_z4j() got an unexpected keyword argument 'zzzzz'"
