"""`AgentSettings`: one agent's configuration, complete and checked."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from pydantic import SecretStr

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.settings.description import Kind
from z4j_fastapi.settings.fields import SETTINGS, LogLevel, SettingFields
from z4j_fastapi.settings.hmac_secret import decode_hmac_secret
from z4j_fastapi.settings.urls import masked_url

Source = Literal["keyword", "environment", "default"]

#: Keys `identity`, so that a printed one is of no use for guessing secrets.
_PROCESS_KEY = os.urandom(16)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AgentSettings(SettingFields):
    """One agent's configuration, complete and checked. Made by `load_settings`.

    Immutable and comparable. No form of it shows a secret: `repr` masks them, `dataclasses.asdict`
    keeps them wrapped, and pickling is refused. While the agent is disabled, required values may
    be empty.

    Spec: config-and-cli.md section 2.
    """

    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What to tell the operator once, in the log of the runtime."""
    keyword_names: frozenset[str] = field(default=frozenset(), compare=False)
    """Settings that were given as keyword arguments."""
    environment_names: frozenset[str] = field(default=frozenset(), compare=False)
    """Settings that were taken from the environment."""

    def source_of(self, name: str) -> Source:
        """Where the value of setting `name` comes from."""
        if name in self.keyword_names:
            return "keyword"
        return "environment" if name in self.environment_names else "default"

    @property
    def signing_key(self) -> bytes:
        """The decoded HMAC key, 32 bytes or more.

        Raises:
            ConfigError: There is none, which only happens while the agent is disabled.
        """
        return decode_hmac_secret(self.hmac_secret.get_secret_value())

    @property
    def websocket_url(self) -> str:
        """URL of the brain's agent endpoint.

        Raises:
            ConfigError: There is no `brain_url`, which only happens while the agent is disabled.

        Spec: wire-protocol.md section 1.
        """
        if not self.brain_url:
            raise ConfigError("brain_url (Z4J_BRAIN_URL): is missing; the agent is disabled")
        return f"ws{self.brain_url.removeprefix('http').rstrip('/')}/ws/agent"

    @property
    def proxy_url(self) -> str | None:
        """The proxy with its credentials, or `none`, or None when it was not given. A secret."""
        return None if self.proxy is None else self.proxy.get_secret_value()

    @property
    def explicit_log_level(self) -> LogLevel | None:
        """`log_level` where it was given; None leaves the loggers alone."""
        return None if self.source_of("log_level") == "default" else self.log_level

    @property
    def deployment_fingerprint(self) -> str:
        """24 hex digits that all agents of a project share; tells nothing about the key.

        Raises:
            ConfigError: There is no key, which only happens while the agent is disabled.

        Spec: design.md section 4.
        """
        return self._tag(b"z4j-fastapi outbox\0" + self.project_id.encode())

    @property
    def agent_tag(self) -> str:
        """24 hex digits that tell the agents of one project apart; from the token.

        Raises:
            ConfigError: There is no key, which only happens while the agent is disabled.
        """
        return self._tag(b"z4j-fastapi agent\0" + self.token.get_secret_value().encode())

    def _tag(self, message: bytes) -> str:
        return hmac.new(self.signing_key, message, hashlib.sha256).hexdigest()[:24]

    @property
    def identity(self) -> str:
        """Equal for equal settings, secrets included. Means nothing outside this process."""
        digest = hmac.new(_PROCESS_KEY, digestmod=hashlib.sha256)
        for name in SETTINGS:
            value = getattr(self, name)
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            if isinstance(plain, Mapping):
                plain = sorted(plain.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType, reportUnknownMemberType]
            digest.update(f"{name}={plain!r}\0".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self._shown(name)}" for name in SETTINGS)
        return f"AgentSettings({shown})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if isinstance(value, SecretStr):
            if SETTINGS[name].kind is Kind.PROXY_URL:
                return repr(masked_url(value.get_secret_value()))
            return "'**********'" if value.get_secret_value() else "''"
        return repr(masked_url(value) if name == "brain_url" else value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("AgentSettings holds secrets and cannot be pickled; load it where it runs")

    def __copy__(self) -> AgentSettings:
        return self

    def __deepcopy__(self, _memo: dict[int, object]) -> AgentSettings:
        return self
