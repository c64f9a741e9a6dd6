"""The only room that sees flags and the terminal."""

__all__ = ["arguments", "console", "own_text", "parsing"]
