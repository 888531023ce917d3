"""One file is one table of results: `make table NAME=...`; published.py is what papers printed."""
