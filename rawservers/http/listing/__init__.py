"""Listings of folders that have no index: HTML for people, JSON for programs, made by one thread beside the loop."""
