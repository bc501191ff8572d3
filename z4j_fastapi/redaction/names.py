"""Which names stand for a secret: keys of mappings, fields of objects, names inside text.

Spec: redaction.md sections 3 and 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Collection, Sequence

#: The official list, written as the normal form of `normal_form`: the optional separators of the
#: official patterns, and every other separator, fall away there.
_OFFICIAL = (
    "password passwordconfirmation passwordhash passwd pwd oldpassword newpassword secret secrets "
    "clientsecret webhooksecret hmacsecret token accesstoken refreshtoken idtoken apitoken "
    "bearertoken sessiontoken apikey xapikey authorization auth credentials cookie setcookie ssn "
    "socialsecurity socialsecuritynumber creditcard creditcardnumber cardnumber cvv cvc"
)
_OURS = (
    "passphrase secretkey privatekey awssecretaccesskey authtoken xauthtoken csrftoken sessionid "
    "cookies proxyauthorization creditcard cardnumber cvv2 otp jwt"
)
_NAMES = frozenset(f"{_OFFICIAL} {_OURS}".split())
_ENDINGS = ("password", "passwd", "secret", "token", "apikey")

#: Characters that Python's case-insensitive matching takes for ASCII letters, which `lower` leaves.
CASE_FOLDS = {"\u017f": "s", "\u212a": "k", "\u0131": "i", "\u0130": "i"}

_DROP = str.maketrans({**CASE_FOLDS, "-": None, "_": None})

#: A key over this length counts as secret.
MAX_NAME_CHARS = 256
#: With operator patterns: they were timed on keys up to this length only.
MAX_PROBED_NAME_CHARS = 64
#: Keys whose verdict is remembered; then all are forgotten.
_MAX_REMEMBERED = 4_096


def normal_form(name: str) -> str:
    """`name` in lower case, without `-`, `_` and white space."""
    return "".join(name.translate(_DROP).lower().split())


def is_secret_name(name: str) -> bool:
    """Whether the built-in list has `name`, of at most `MAX_NAME_CHARS` characters."""
    normal = normal_form(name)
    return normal in _NAMES or normal.endswith(_ENDINGS)


class KeyRules:
    """Verdicts on keys. A key is judged once: names repeat (performance.md, "What decides" 2).

    Args:
        scrub: Treats a key as a value: the text that may leave the host in its place.
        defaults_enabled: Whether the built-in names count.
        extra: The operator's patterns, matched against the whole key.
        also: Names that are secret here, compared exactly (`redact_kwargs` of a task).
    """

    __slots__ = ("_also", "_defaults", "_extra", "_max_chars", "_scrub", "known")

    def __init__(
        self,
        scrub: Callable[[str], str],
        *,
        defaults_enabled: bool,
        extra: Sequence[re.Pattern[str]] = (),
        also: Collection[str] = (),
    ) -> None:
        self._scrub = scrub
        self._defaults = defaults_enabled
        self._extra = tuple(extra)
        self._also = frozenset(also)
        self._max_chars = MAX_PROBED_NAME_CHARS if self._extra else MAX_NAME_CHARS
        #: Key to "its value is secret", for keys that leave unchanged.
        self.known: dict[str, bool] = {}

    def with_names(self, names: Collection[str]) -> KeyRules:
        """The same rules with more secret names."""
        return KeyRules(
            self._scrub,
            defaults_enabled=self._defaults,
            extra=self._extra,
            also=self._also | frozenset(names),
        )

    def judge(self, key: str) -> tuple[str, bool]:
        """What to write for `key`, and whether its value is secret.

        Args:
            key: An exact `str`, any length.
        """
        shown = self._scrub(key)
        secret = self.is_secret(key)
        if shown == key and len(key) <= MAX_NAME_CHARS:
            known = self.known
            if len(known) >= _MAX_REMEMBERED:
                known.clear()
            known[key] = secret
        return shown, secret

    def is_secret(self, key: str) -> bool:
        """Whether the value under `key` is secret; not remembered."""
        if len(key) > self._max_chars or key in self._also:
            return True
        if self._defaults and is_secret_name(key):
            return True
        return any(pattern.fullmatch(key) for pattern in self._extra)
