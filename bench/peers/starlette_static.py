"""Starlette's own way to serve the folder that the environment names as FOLDER; uvicorn runs it."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount("/", StaticFiles(directory=os.environ["FOLDER"]))])
