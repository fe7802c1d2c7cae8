"""The access log, the error log, and the sinks that both write to."""
