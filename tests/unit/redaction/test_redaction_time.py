"""Time: linear in the input, whatever it is (redaction.md section 5).

Quadratic patterns take a second and more for 64 KiB (the official JWT pattern: 20 s). The bound is
CPU time of this thread and generous, since it must hold on a slow, busy machine.
"""

from __future__ import annotations

import time

import pytest

from z4j_fastapi.redaction import Redactor
from z4j_fastapi.redaction.pairs import redact_pairs
from z4j_fastapi.redaction.patterns import SHAPES, SK, SLACK, SSN, UNDERSCORE

SIZE = 65_536
UNITS = [
    "eyJ", "eyJa.", "eyJ.", "a@a@", "a@", "@a.", "@.", "@a-", "a.", ".", "sk_live_", "sk_live_a", "ghp_",
    "github_pat_", "xoxb-", "xapp-", "akia", "AIza", "SG.", "SG.a", "-----BEGIN", "-----BEGIN RSA ", "Bearer ",
    "Bearer", "Basic ", "redis://", "redis://a:", "redis://a:b", "redis://@", "redis://a:b@/", "://", "a://:",
    "://:@", ":@/", "SK", "sk" + "0" * 31, "sk-", "sk-proj-", "123-45-", "1-", "4111 1111 1111 1112 ", "4111-",
    "4", "4111 ", "https://hooks.slack.com/services/T", "https://hooks.slack.com/services/T/B", "glpat-", "whsec_",
    "a", "A", " ", "\n", "0", "-", "_", "\u017f", "é", "é-",
]  # fmt: skip
PAIR_UNITS = [
    "password=", "password=' ", "password='", "password:", "password: ", 'token="', "\\", '\\"', "password\\",
    "password={", "password=[(", "=", ":", "a=", "a:", "password=,", "password=a,a", "authorization: x\n", "key =",
    "password:str=", "password: str = ", "password     ", "password=[REDACTED]", "secret=b'", "'", " =", "\t:",
]  # fmt: skip
SECONDS = 0.5


def cpu(call, text):
    started = time.thread_time()
    call(text)
    return time.thread_time() - started


def texts(units):
    for unit in units:
        repeated = unit * (SIZE // len(unit) + 1)
        yield unit, ("redis://a:" + repeated)[:SIZE]
        yield unit, (repeated[: SIZE - 8] + " x@y! a:b@")


@pytest.mark.parametrize(
    "shape", [*{shape.check: shape for shape in (*SHAPES, UNDERSCORE, SLACK, SK, SSN)}.values()],
    ids=lambda shape: shape.name,
)  # fmt: skip
def test_shape_when_the_text_is_adversarial_then_the_time_is_bounded(shape):
    slowest = max((cpu(shape.check, text), unit) for unit, text in texts(UNITS))
    assert slowest[0] < SECONDS, slowest


def test_pairs_when_the_text_is_adversarial_then_the_time_is_bounded():
    slowest = max((cpu(redact_pairs, text), unit) for unit, text in texts(PAIR_UNITS))
    assert slowest[0] < SECONDS, slowest


@pytest.mark.parametrize("key", ["x", "traceback"])
def test_event_when_the_text_is_adversarial_then_the_time_is_bounded(key):
    redactor = Redactor()
    slowest = max(
        (cpu(lambda text: redactor.render({key: text}), text), unit)
        for unit, text in texts([*UNITS, *PAIR_UNITS, "a@b\n", "@\n", "\n\n"])
    )
    assert slowest[0] < 2 * SECONDS, slowest


def test_event_when_it_is_huge_then_the_time_is_bounded():
    redactor = Redactor()
    wide = {
        "args": [
            list(range(200_000)),
            {str(at): at for at in range(200_000)},
            "x" * 5_000_000,
            b"y" * 5_000_000,
        ]
    }
    assert cpu(redactor.render, wide) < SECONDS
