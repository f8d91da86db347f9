"""Recordings of how real libraries log model calls, for tests/writers; see `bench.writers.__main__`."""
