"""Settings of an agent: keyword arguments over `Z4J_*` variables over defaults.

`load_settings` gives checked, immutable `AgentSettings` or raises one `ConfigError` that lists
every problem. pydantic-settings is imported by the first call, not by this import.
"""

from __future__ import annotations

from z4j_fastapi.settings.description import Kind as Kind
from z4j_fastapi.settings.description import Setting as Setting
from z4j_fastapi.settings.fields import SETTINGS as SETTINGS
from z4j_fastapi.settings.fields import BufferSync as BufferSync
from z4j_fastapi.settings.fields import LogLevel as LogLevel
from z4j_fastapi.settings.fields import TransportName as TransportName
from z4j_fastapi.settings.hmac_secret import decode_hmac_secret as decode_hmac_secret
from z4j_fastapi.settings.keywords import LIFESPAN_HANDLES as LIFESPAN_HANDLES
from z4j_fastapi.settings.keywords import SETTING_KEYWORDS as SETTING_KEYWORDS
from z4j_fastapi.settings.keywords import check_keyword_names as check_keyword_names
from z4j_fastapi.settings.load import load_settings as load_settings
from z4j_fastapi.settings.model import AgentSettings as AgentSettings
from z4j_fastapi.settings.model import Source as Source
from z4j_fastapi.settings.urls import is_loopback_host as is_loopback_host
from z4j_fastapi.settings.urls import masked_url as masked_url
