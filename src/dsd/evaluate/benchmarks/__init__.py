"""What methods are measured on, one a file: a reader that gives a `dsd.evaluate.benchmark.Benchmark`."""
