"""The only room that sees flags and the terminal."""

__all__ = ["arguments", "console", "export_arguments", "own_text", "parsing"]
