"""A slow, plain reading of spec/redaction.md sections 2 to 4 and 9, to hold the redactor against.

No anchors, no joined texts, no remembered verdicts: every regex on every string, as the tables of
the specification have them. Only plain JSON types.
"""

from __future__ import annotations

import re

REDACTED = "[REDACTED]"

_KEY_LIST = r"""
password password_confirmation password_hash passwd pwd old_password new_password secret secrets
client_?secret webhook_?secret hmac_?secret token access_?token refresh_?token id_?token api_?token
bearer_?token session_?token api_?key x-api-key x_api_key authorization auth credentials cookie
set-cookie set_cookie ssn social_security social_security_number credit_card credit_card_number
card_number cvv cvc
"""
_KEYS = _KEY_LIST.split()
OFFICIAL_KEY = re.compile("|".join(_KEYS), re.IGNORECASE)

_MORE_LIST = """
passphrase secretkey privatekey awssecretaccesskey authtoken xauthtoken csrftoken sessionid cookies
proxyauthorization creditcard cardnumber cvv2 otp jwt
"""
_MORE = _MORE_LIST.split()
_NORMAL = {re.sub(r"\?|[-_]", "", name) for name in _KEYS} | set(_MORE)

_SCHEMES = "(?:postgres|postgresql|mysql|mariadb|mongodb|mongodb\\+srv|redis|rediss|amqp|amqps)"
OFFICIAL_VALUES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
        r"Bearer\s+[A-Za-z0-9._-]{16,}",
        r"[spr]k_(?:live|test)_[A-Za-z0-9]{24,}",
        r"whsec_[A-Za-z0-9]{24,}",
        r"xox[bpa]-[0-9A-Za-z-]{10,}",
        r"https://hooks\.slack\.com/services/T[^/\s]*/B[^/\s]*/[^/\s]+",
        r"gh[pos]_[A-Za-z0-9]{36}",
        r"github_pat_[A-Za-z0-9_]{82,}",
        r"(?:AKIA|ASIA)[0-9A-Z]{16}",
        r"AIza[0-9A-Za-z_-]{35}",
        r"\bSK[0-9a-f]{32}\b",
        r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
        rf"{_SCHEMES}://[^:\s]+:[^@\s]+@[^\s/]+",
        r"-----BEGIN (?:RSA|EC|DSA|OPENSSH|PGP|ENCRYPTED|PRIVATE) (?:PRIVATE )?KEY-----",
        r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}",
        r"\b\d{3}-\d{2}-\d{4}\b",
    )
]
OUR_VALUES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![A-Za-z0-9])sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,}",
        r"glpat-[A-Za-z0-9_-]{20,}",
        r"gh[ur]_[A-Za-z0-9]{36}",
        r"xapp-[0-9A-Za-z-]{10,}",
        r"xox[ers]-[0-9A-Za-z-]{10,}",
        r"\bBasic\s+[A-Za-z0-9+/_=-]{16,}",
        r"[A-Za-z0-9+.-]://[^\s/@:\"<>]*:[^\s/@\"<>]+@",
        r"-----BEGIN PGP PRIVATE KEY BLOCK-----",
    )
]
_CARD = re.compile(r"[0-9][0-9 -]{11,}[0-9]")
_NAME_IN_TEXT = re.compile(
    r"(?:passw|pwd|secret|token|key|auth|credential|cookie|ssn|social|card|cvv|cvc|passphrase"
    r"|session|otp|jwt).*[=:]",
    re.IGNORECASE | re.DOTALL,
)


_SPELLED = {0x17F: "s", 0x212A: "k", 0x131: "i", 0x130: "i", ord("-"): None, ord("_"): None}


def official_key(key):
    return len(key) > 256 or OFFICIAL_KEY.fullmatch(key) is not None


def secret_key(key):
    normal = "".join(re.sub("[-_]", "", key).lower().split())
    return (
        official_key(key)
        or normal in _NORMAL
        or normal.endswith(("password", "passwd", "secret", "token", "apikey"))
    )


def official_value(text):
    return any(pattern.search(text) for pattern in OFFICIAL_VALUES)


def our_value(text):
    return any(pattern.search(text) for pattern in OUR_VALUES)


def may_be_section_9(text):
    """Whether one of the additions that this module has no full reading of may change the text."""
    return bool(_CARD.search(text) or _NAME_IN_TEXT.search(text.translate(_SPELLED)))


def official(value, *, redact=False):
    """What the official engine makes of short, shallow JSON (sections 2 to 4)."""
    if isinstance(value, dict):
        return {
            (REDACTED if official_value(key) else key): official(
                member, redact=redact or official_key(key)
            )
            for key, member in value.items()
        }
    if isinstance(value, list):
        return [official(member, redact=redact) for member in value]
    if redact or (isinstance(value, str) and official_value(value)):
        return REDACTED
    return value


def expected(text):
    """What ours makes of a short string: text, or None where the reference does not know."""
    if official_value(text) or our_value(text):
        return REDACTED
    return None if may_be_section_9(text) else text.replace("\0", "\ufffd")
