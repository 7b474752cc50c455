"""Configurations: strict TOML in, one message with every mistake out."""

from latflow.app.config.errors import ConfigError
from latflow.app.config.reader import dumps, parse_toml, read, validate
from latflow.app.config.root import Config

__all__ = ["Config", "ConfigError", "dumps", "parse_toml", "read", "validate"]
