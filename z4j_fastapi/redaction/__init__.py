"""Redaction: what leaves the host carries no secrets, is bounded, and is JSON.

    patterns, cards, urls   shapes of secret values, each linear in the text
    lazy                    regular expressions compiled at their first use
    pairs                   name=value inside text
    names                   keys whose values are secret, with remembered verdicts
    bounds                  limits, markers, cutting
    scrub                   one string; all strings of an event in one look
    objects                 any Python object as JSON types
    walk                    the bounded copy
    tracebacks, shortening, hints, rendering    steps of one event
    redactor                all together
    check                   trying an operator's patterns

Spec: redaction.md.
"""

from __future__ import annotations

from z4j_fastapi.redaction.bounds import REDACTED
from z4j_fastapi.redaction.check import check_patterns
from z4j_fastapi.redaction.redactor import Redactor, Rendered
from z4j_fastapi.redaction.urls import mask_url

__all__ = ["REDACTED", "Redactor", "Rendered", "check_patterns", "mask_url"]
