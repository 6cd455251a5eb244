"""What a test sent to mmengine's log (whose own handler keeps the first stdout it saw, so pytest cannot capture it)."""

import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log_lines():
    """Return the messages so far, a list that grows."""
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
