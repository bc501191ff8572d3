"""The table of settings: name, type, default, variable, bounds, meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from z4j_fastapi.settings.description import METADATA_KEY, Kind, Setting, describe
from z4j_fastapi.settings.tags import Tags

TransportName = Literal["auto", "ws", "longpoll"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
BufferSync = Literal["interval", "always", "never"]


# Without methods of its own: generating them takes milliseconds, and `AgentSettings` has its own.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False, init=False, eq=False)
class SettingFields:
    """The fields of `AgentSettings`; never made by itself.

    `load_settings` and the generated documentation read this class, so the order is theirs.

    Spec: config-and-cli.md sections 2, 2.1, 2.4.
    """

    brain_url: str = field(
        metadata=describe(
            Kind.BRAIN_URL,
            "Z4J_BRAIN_URL",
            "Where the brain is. `ws` and `wss` are taken as `http` and `https`; a "
            "path is kept; a query, fragment, user name or password is refused. Plaintext is "
            "for loopback hosts only, see `dev_mode`.",
            required=True,
            fix="such as https://brain.example.com",
        )
    )
    token: SecretStr = field(
        metadata=describe(
            Kind.SECRET,
            "Z4J_TOKEN",
            "Bearer token of the agent, shown once when the agent is minted.",
            required=True,
            fix="the brain shows it once, when the agent is minted",
        )
    )
    hmac_secret: SecretStr = field(
        metadata=describe(
            Kind.SECRET,
            "Z4J_HMAC_SECRET",
            "Signing key of the project: URL-safe base64 of at least 32 bytes.",
            required=True,
            fix="the brain shows it with the agent's token",
        )
    )
    project_id: str = field(
        metadata=describe(
            Kind.TEXT,
            "Z4J_PROJECT_ID",
            "Slug of the project. A UUID is compared with the brain's at the handshake.",
            required=True,
            maximum=63,
            fix="the project's slug in the brain",
        )
    )
    agent_name: str | None = field(
        default=None,
        metadata=describe(
            Kind.TEXT, "Z4J_AGENT_NAME", "Label of this host in the dashboard.", maximum=64
        ),
    )
    agent_id: str = field(
        default="",
        metadata=describe(
            Kind.TEXT,
            "Z4J_AGENT_ID",
            "The agent's id in the brain. Not needed; when given it must be the token's own.",
            maximum=64,
        ),
    )
    transport: TransportName = field(
        default="auto",
        metadata=describe(
            Kind.CHOICE,
            "Z4J_TRANSPORT",
            "How to reach the brain; `auto` is the WebSocket. `longpoll` is not in "
            "this version yet.",
            choices=("auto", "ws", "longpoll"),
        ),
    )
    dev_mode: bool = field(
        default=False,
        metadata=describe(
            Kind.BOOLEAN,
            None,
            "Allow plaintext to a host that is not loopback. Frames stay signed. "
            "`Z4J_DEV_MODE` is ignored with a warning.",
        ),
    )
    environment: str = field(
        default="production",
        metadata=describe(
            Kind.TEXT,
            "Z4J_ENVIRONMENT",
            "Name of the deployment environment, sent to the brain.",
            maximum=40,
        ),
    )
    tags: Mapping[str, str] = field(
        default_factory=Tags,
        metadata=describe(Kind.TAGS, "Z4J_TAGS", "Labels of this host, sent to the brain."),
    )
    engines: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            Kind.NAMES,
            "Z4J_ENGINES",
            "Attach only these of the engines whose handles were given; empty: all. "
            "A name without a handle is an error as a keyword argument and ignored in the "
            "variable.",
        ),
    )
    schedulers: tuple[str, ...] = field(
        default=(),
        metadata=describe(Kind.NAMES, "Z4J_SCHEDULERS", "The same for schedulers."),
    )
    heartbeat_seconds: int = field(
        default=10,
        metadata=describe(
            Kind.INTEGER,
            "Z4J_HEARTBEAT_SECONDS",
            "Heartbeat interval before the handshake, and the upper bound after it.",
            minimum=1,
            maximum=300,
        ),
    )
    worker_role: str | None = field(
        default=None,
        metadata=describe(
            Kind.TEXT,
            "Z4J_WORKER_ROLE",
            "Role shown for this process, such as `web` or `task`; by default what the process is.",
            maximum=32,
        ),
    )
    buffer_path: Path | None = field(
        default=None,
        metadata=describe(
            Kind.PATH,
            None,
            "Directory of the outbox; of a path that ends in `.sqlite` or `.db` the "
            "parent is used. `~` is expanded. By default below the state directory.",
        ),
    )
    buffer_max_events: int = field(
        default=100_000,
        metadata=describe(
            Kind.INTEGER,
            "Z4J_BUFFER_MAX_EVENTS",
            "Most events kept while the brain is away; the oldest go first.",
            minimum=1000,
        ),
    )
    buffer_max_bytes: int = field(
        default=268_435_456,
        metadata=describe(
            Kind.INTEGER,
            "Z4J_BUFFER_MAX_BYTES",
            "Most bytes kept on disk; the oldest events go first.",
            minimum=1_048_576,
        ),
    )
    max_payload_bytes: int = field(
        default=8192,
        metadata=describe(
            Kind.INTEGER,
            "Z4J_MAX_PAYLOAD_BYTES",
            "Longest string in an event; longer ones are cut. The brain cuts at 8192.",
            minimum=128,
        ),
    )
    log_level: LogLevel = field(
        default="INFO",
        metadata=describe(
            Kind.CHOICE,
            "Z4J_LOG_LEVEL",
            "Level of the logger `z4j_fastapi`, set only when this is given.",
            choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        ),
    )
    autostart: bool = field(
        default=True,
        metadata=describe(
            Kind.BOOLEAN, "Z4J_AUTOSTART", "False: the runtime is built but not started."
        ),
    )
    strict_mode: bool = field(
        default=False,
        metadata=describe(
            Kind.BOOLEAN,
            "Z4J_STRICT_MODE",
            "True: start-up also fails when an engine cannot be attached.",
        ),
    )
    redaction_extra_key_patterns: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            Kind.PATTERNS,
            "Z4J_REDACTION_EXTRA_KEY_PATTERNS",
            "Keys whose values are redacted, beside the built-in ones; matched whole, any case.",
        ),
    )
    redaction_extra_value_patterns: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            Kind.PATTERNS,
            "Z4J_REDACTION_EXTRA_VALUE_PATTERNS",
            "Texts that are redacted, beside the built-in ones; found anywhere.",
        ),
    )
    redaction_defaults_enabled: bool = field(
        default=True,
        metadata=describe(
            Kind.BOOLEAN,
            None,
            "False switches the built-in redaction patterns off, with a warning.",
        ),
    )
    enabled: bool = field(
        default=True,
        metadata=describe(
            Kind.BOOLEAN,
            "Z4J_DISABLED",
            "False: no agent is built, the application runs, and configuration "
            "problems are warnings.",
            inverted=True,
        ),
    )
    buffer_sync: BufferSync = field(
        default="interval",
        metadata=describe(
            Kind.CHOICE,
            "Z4J_BUFFER_SYNC",
            "When events are forced to the disk. A killed process loses nothing "
            "either way; a power cut loses up to a second with `interval`, nothing with "
            "`always`, what the system had not written with `never`.",
            choices=("interval", "always", "never"),
        ),
    )
    max_event_bytes: int = field(
        default=65_536,
        metadata=describe(
            Kind.INTEGER,
            "Z4J_MAX_EVENT_BYTES",
            "Largest event; what is larger is shortened and counted.",
            minimum=1024,
            maximum=524_288,
        ),
    )
    shutdown_timeout: float = field(
        default=5.0,
        metadata=describe(
            Kind.SECONDS,
            "Z4J_SHUTDOWN_TIMEOUT",
            "Longest wait for deliveries when the application stops.",
            minimum=0,
            maximum=60,
        ),
    )
    ca_file: Path | None = field(
        default=None,
        metadata=describe(
            Kind.PATH,
            "Z4J_CA_FILE",
            "PEM file with certificates to trust beside the system's.",
            fix="give the path of a PEM file that this process can read",
        ),
    )
    proxy: SecretStr | None = field(
        default=None,
        metadata=describe(
            Kind.PROXY_URL,
            "Z4J_PROXY",
            "Proxy to reach the brain through, `none` for a direct connection; by "
            "default the usual variables. Treated as a secret: it may hold a password.",
        ),
    )
    reconcile_api_key: SecretStr | None = field(
        default=None,
        metadata=describe(Kind.SECRET, "Z4J_API_KEY", "API key for reconciling schedules."),
    )
    dev_brain: bool = field(
        default=False,
        metadata=describe(
            Kind.BOOLEAN,
            "Z4J_DEV_BRAIN",
            "Attach to the local development brain. Not in this version yet.",
        ),
    )
    home: Path | None = field(
        default=None,
        metadata=describe(
            Kind.PATH, "Z4J_HOME", "State directory; by default `~/.z4j`.", keyword=False
        ),
    )
    heartbeat_enabled: bool = field(
        default=True,
        metadata=describe(
            Kind.BOOLEAN, "Z4J_HEARTBEAT", "False: no heartbeats are sent.", keyword=False
        ),
    )
    agent_status_enabled: bool = field(
        default=True,
        metadata=describe(
            Kind.BOOLEAN,
            "Z4J_AGENT_STATUS_DISABLED",
            "False: no status frames are sent.",
            inverted=True,
            keyword=False,
        ),
    )
    purge_threshold: int | None = field(
        default=None,
        metadata=describe(
            Kind.INTEGER,
            "Z4J_PURGE_THRESHOLD",
            "A purge of a deeper queue needs force; by default the engine's figure.",
            keyword=False,
            minimum=0,
        ),
    )


#: Every setting by name, in the order of the documentation.
SETTINGS: Mapping[str, Setting] = {
    item.name: item.metadata[METADATA_KEY] for item in fields(SettingFields)
}
