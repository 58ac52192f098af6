from tiny import tiny_folder  # noqa: F401 - the fixture
