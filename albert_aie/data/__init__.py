"""Tasks, and files of examples: what is read, and what tells how good predictions are."""

__all__ = ["datasets", "formats", "metrics", "records", "tasks"]
