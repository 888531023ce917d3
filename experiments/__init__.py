"""One file is one row of the results table; see README.md."""
