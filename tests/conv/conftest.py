"""What tests of convolutions share."""

import pytest

from lowerconv.conv import wisdom


@pytest.fixture
def own_wisdom(tmp_path, monkeypatch):
    """A directory of choices for this test alone; kernels stay where they are cached."""
    monkeypatch.setattr(wisdom, "cache_directory", lambda: tmp_path)
    # What other tests have looked up for the same environment is another directory.
    monkeypatch.setattr(wisdom, "_path_for", lambda variables: str(wisdom.wisdom_path()))
