from tiny import tiny_folder  # noqa: F401 - the fixture
from tiny_run import pictures, tiny_run, without_drift  # noqa: F401 - fixtures
