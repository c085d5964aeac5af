"""What several benchmarks share; a folder, so that `make bench` does not run it."""
