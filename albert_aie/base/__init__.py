"""What every room may use: errors, files, shapes, the machine. Nothing here knows ALBERT."""

__all__ = [
    "archive",
    "choose_shapes",
    "encoding",
    "errors",
    "files",
    "machine",
    "process",
    "shapes",
    "terminal",
    "version",
]
