"""HTTP/1.0 (RFC 1945) as a server meets it today, with the strictness of RFC 9112.

Read request.py, response.py, conversation.py, then site.py with its cache.py.
"""
