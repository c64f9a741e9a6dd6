"""Every row of a corpus once, on one machine or on Ray."""

__all__ = ["job", "planning", "ray_workers", "reading", "summaries", "worker"]
