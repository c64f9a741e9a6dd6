"""What is printed and written of an evaluation."""

__all__ = ["figures", "page", "plots", "results", "schema", "setting", "speed"]
