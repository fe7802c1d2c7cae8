"""The welcome page: what is served without a document root."""
