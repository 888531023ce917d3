"""Each file is a table of results: `make table NAME=...`; published.py holds published numbers."""
