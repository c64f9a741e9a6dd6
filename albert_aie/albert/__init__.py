"""ALBERT itself: a checkpoint in any layout, the graphs that are traced, the reference."""

__all__ = [
    "checkpoint",
    "config",
    "equalise",
    "flops",
    "fused",
    "graph",
    "layouts",
    "references",
    "upstream",
]
