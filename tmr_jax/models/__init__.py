"""Models, one file for each paper, their layers and losses; runs on disk and encoders made of them.

Nothing is imported here: a program that only looks at a run directory need not wait for JAX.
"""
