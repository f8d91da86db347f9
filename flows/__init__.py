"""Prefect flows: the nightly loop, its stages, and the `align` command."""
