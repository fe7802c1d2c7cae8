"""The access log, the error log, and the non-blocking writer behind both."""
