"""Each file is an experiment: `make train EXP=...`; see README.md."""
