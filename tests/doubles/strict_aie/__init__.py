"""Strict double of torch_aie and mindietorch: README.md one folder up."""
