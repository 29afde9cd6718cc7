"""Reports on a `Diff`: text, JSON, table. They render it and compute nothing."""
