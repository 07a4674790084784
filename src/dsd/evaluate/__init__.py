"""How well a method keeps the subject and follows the words: benchmark, metrics, tables, report."""
