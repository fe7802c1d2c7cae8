"""Content negotiation by Accept and Accept-Encoding: RFC 9110 §12.5.1 and §12.5.3."""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter

# The part of an Accept or Accept-Encoding field that is parsed. Browsers send a dozen members, in less than 200 characters.
MAX_MEMBERS = 64
MAX_CHARACTERS = 2048

QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def prefers_json(accept: str) -> bool:
    """Whether the Accept field prefers application/json to text/html (§12.5.1).

    With equal weights, the one that is named is preferred: programs send "application/json, */*".
    """
    ranges = parse_accept(accept)
    as_json, as_html = quality("application/json", ranges), quality("text/html", ranges)
    return as_json > as_html or (as_json == as_html > 0 and "application/json" in ranges and "text/html" not in ranges)


def rank_codings(accept_encoding: str, codings: Iterable[str]) -> list[str]:
    """The accepted content codings out of `codings`, best first, without those that weigh less than identity (§12.5.3)."""
    weights = parse_accept(accept_encoding)
    identity, others = weights.get("identity", 0.0), weights.get("*", 0.0)
    ranked = [(-weights.get(coding, others), coding) for coding in codings]
    return [coding for weight, coding in sorted(ranked, key=itemgetter(0)) if weight < 0 and -weight >= identity]


def parse_accept(accept: str) -> dict[str, float]:
    """The members of an Accept or Accept-Encoding field with their weights, without those with a malformed weight.

    A member with other parameters (charset, level) counts for its type, unless the type is also given without. Members after
    the first MAX_MEMBERS, or that do not end within the first MAX_CHARACTERS, are ignored.
    """
    ranges: dict[str, float] = {}
    members = QUOTED.sub("", accept[:MAX_CHARACTERS]).lower().split(",", MAX_MEMBERS)
    if len(accept) > MAX_CHARACTERS or len(members) > MAX_MEMBERS:
        del members[-1]
    for element in members:
        kind, *parameters = [part.strip(" \t") for part in element.split(";")]
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        if any(not QUALITY.fullmatch(weight) for weight in weights):
            continue
        weight = float(weights[0]) if weights else 1.0
        if len(parameters) == len(weights):
            ranges[kind] = weight
        else:
            ranges.setdefault(kind, weight)
    return ranges


def quality(kind: str, ranges: dict[str, float]) -> float:
    """The weight of a media type: that of the most specific range that includes it, 0 if none does."""
    for candidate in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if candidate in ranges:
            return ranges[candidate]
    return 0.0
