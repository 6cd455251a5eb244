from tests.engine.conftest import one_thread, same_environment, short  # noqa: F401
