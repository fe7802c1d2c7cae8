"""The access log, the error log, and the non-blocking sink that both write to."""
