"""`avsmamba models`."""

import argparse

HELP = "list the shipped models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba models`: none."""
    parser.description = "List the shipped models: name, description and folder."


def run(args: argparse.Namespace) -> None:
    """Print the list."""
    from avsmamba.model_zoo.bundled import shipped_models

    for model in shipped_models():
        print(f"{model.name}: {model.card.get('about', '')}\n  {model.config.parent}")
