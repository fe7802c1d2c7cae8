"""Budgets of an exchange in processor instructions, as callgrind counts them, whatever else the machine does."""

from __future__ import annotations

import sys

import pytest

from bench.instructions import WORKS, compile_package, per_exchange
from tests.harness.needs import ROOT, need

BUDGETS = {"kept GET": 0, "another file": 0, "another header": 0, "new connection": 0, "Telnet line": 0}
