"""The columns of the table, one a file: pure functions on features and pictures."""
