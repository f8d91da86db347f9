"""What real libraries write about calls of a model, recorded for tests/writers; see `bench.writers.__main__`."""
