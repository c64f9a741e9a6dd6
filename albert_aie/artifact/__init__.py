"""The .pt: what it holds, how it is written, and what is checked when it is opened."""

__all__ = ["manifest", "pt_file"]
