"""The `pagedkv` command."""

from pagedkv.cli.app import main

__all__ = ["main"]
