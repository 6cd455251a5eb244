"""Configs: YAML files with bases, values from the command line, checks against the parts' signatures."""

from avsmamba.config.check import check_config
from avsmamba.config.load import load_config, parse_options

__all__ = ["check_config", "load_config", "parse_options"]
