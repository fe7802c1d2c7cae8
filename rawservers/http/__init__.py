"""HTTP/1.0 (RFC 1945) for today's clients, as strict as RFC 9112.

Reading order. One connection: request.py, dates.py, response.py, framing.py, conversation.py. Where responses come from:
router.py, site.py, files.py, then negotiation.py, conditional.py, ranges.py, listing/ and cache.py.
"""
