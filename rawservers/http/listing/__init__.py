"""Directory listings as HTML and JSON, generated in a thread."""
