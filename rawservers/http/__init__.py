"""HTTP/1.0 (RFC 1945) as a server meets it today, with the strictness of RFC 9112.

Read request.py, response.py and conversation.py; then, for where the answers come from, router.py, site.py, files.py,
conditional.py, listing/html.py and cache.py.
"""
