"""Fuzz targets and their inputs. targets.py is not imported here: coverage is measured from its import on."""

NAMES = ("head", "chunked", "conversation", "fields", "path", "telnet", "configuration", "memory", "proxy", "tls")
