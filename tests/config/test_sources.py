"""What a source may say, and how a mistake in it is told."""

import pytest

from dlm.errors import DocumentError
from tests.data.sounds import document


def test_a_column_of_ours_is_not_misspelt(tmp_path) -> None:
    head = "training:\n  sources: [{path: x.csv, columns: {txt: sentence}}]\n"
    with pytest.raises(DocumentError, match=r"my\.dlm:6:27: .*columns is .*it must name columns"):
        document(tmp_path, head=head)
    head = head.replace("txt", "text")
    (source,) = document(tmp_path, head=head).config.training.sources
    assert source.columns == {"text": "sentence"}
