"""Reading `Z4J_*` variables: values, removed names, near misses. Values are never in a warning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from z4j_fastapi.settings.conversion import EnvironmentText
from z4j_fastapi.settings.fields import SETTINGS

_PREFIX = "Z4J_"

#: Names of variables that mean something elsewhere: in other parts of this package, in the official
#: agent, or in the brain, which may share the environment. Spec: config-and-cli.md section 2.1.
_OTHERS = frozenset(
    {
        "Z4J_ACCEPT_LEGACY_PURGE_TOKEN",
        "Z4J_CELERY_LOCAL_HOSTNAME",
        "Z4J_COMMAND_TIMEOUT_SECONDS",
        "Z4J_EMBEDDED_SCHEDULER",
        "Z4J_LOG_FORMAT",
        "Z4J_MAX_PAYLOAD_SIZE_BYTES",
        "Z4J_ORCHESTRATED",
        "Z4J_RQ_REDIS_URL",
    }
)

#: Removed variables that still name the outbox, the stronger one first (section 2.2).
_BUFFER_VARIABLES = ("Z4J_BUFFER_PATH", "Z4J_BUFFER_DIR")

_KEYWORD_ONLY = {
    f"{_PREFIX}{name.upper()}": name
    for name, setting in SETTINGS.items()
    if setting.environment is None and name != "buffer_path"
}
_KNOWN = {setting.environment: name for name, setting in SETTINGS.items() if setting.environment}
#: Wrong names that edit distance does not find.
_HINTS = {"Z4J_ENABLED": "Z4J_DISABLED"}

# A near miss of a short name is likely a name of its own (Z4J_HOST, Z4J_HOME).
_SHORT_NAME = len(_PREFIX) + 6


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentValues:
    """What the environment says.

    Args:
        values: Text by setting name; empty variables are left out.
        warnings: One line each: ignored, deprecated and probably misspelt variables.
    """

    values: Mapping[str, EnvironmentText]
    warnings: tuple[str, ...]


def read_environment(environ: Mapping[str, str], *, hidden: Iterable[str]) -> EnvironmentValues:
    """Find every setting in `environ`, in any case of the names.

    Args:
        environ: `os.environ` or a stand-in.
        hidden: Settings that a keyword argument decides; their variables are not looked at.

    Spec: config-and-cli.md sections 1, 2.1, 2.2.
    """
    covered = frozenset(hidden)
    found = _prefixed(environ)
    values = {
        name: EnvironmentText(found[variable])
        for variable, name in _KNOWN.items()
        if variable in found and name not in covered
    }
    warnings: list[str] = []
    for variable in _BUFFER_VARIABLES:
        if variable in found:
            used = "buffer_path" not in covered and "buffer_path" not in values
            if used:
                values["buffer_path"] = EnvironmentText(found[variable])
            fate = "is deprecated" if used else "is deprecated and ignored here"
            warnings.append(f"{variable} {fate}; pass buffer_path=... instead")
    if "Z4J_RUNTIME_DIR" in found:
        warnings.append("Z4J_RUNTIME_DIR is ignored; set Z4J_HOME instead")
    warnings += [
        f"{variable} is ignored; pass {name}=... as a keyword argument instead"
        for variable, name in _KEYWORD_ONLY.items()
        if variable in found
    ]
    warnings += _near_misses(found)
    return EnvironmentValues(values=values, warnings=tuple(warnings))


def _prefixed(environ: Mapping[str, str]) -> dict[str, str]:
    """Our variables by upper-case name, blank ones left out; the exact spelling wins."""
    found: dict[str, str] = {}
    for variable, text in environ.items():
        upper = variable.upper()
        if upper.startswith(_PREFIX) and text.strip() and (variable == upper or upper not in found):
            found[upper] = text
    return found


def _near_misses(found: Iterable[str]) -> list[str]:
    taken = {*_KNOWN, *_KEYWORD_ONLY, *_BUFFER_VARIABLES, *_OTHERS, "Z4J_RUNTIME_DIR"}
    pairs = [
        f"{variable} (did you mean {meant}?)"
        for variable in sorted(set(found) - taken)
        if (meant := _meant(variable)) is not None
    ]
    if not pairs:
        return []
    return [f"variables that are no settings, ignored: {', '.join(pairs)}"]


def _meant(variable: str) -> str | None:
    """The known variable that `variable` is probably a misspelling of."""
    if variable in _HINTS:
        return _HINTS[variable]
    best: tuple[int, str] | None = None
    for known in sorted(_KNOWN):
        allowed = 1 if min(len(known), len(variable)) < _SHORT_NAME else 2
        if abs(len(known) - len(variable)) > allowed:
            continue
        distance = _edit_distance(variable, known)
        if distance <= allowed and (best is None or distance < best[0]):
            best = (distance, known)
    return best[1] if best else None


def _edit_distance(left: str, right: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that turn one into the other."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        previous, row = row, [i] + [0] * len(right)
        for j, b in enumerate(right, start=1):
            row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                row[j] = min(row[j], before[j - 2] + 1)
        before = previous
    return row[-1]
