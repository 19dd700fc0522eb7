"""stitch: what a document joins, as one folder that others can name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import StoreError, UsageError
from dlm.verbs.overrides import Overrides
from dlm.verbs.say import DocumentPath, Say

if TYPE_CHECKING:
    from dlm.plan.bases import Base


@dataclass(frozen=True)
class Stitching:
    """The folder that was written, and the base it holds."""

    folder: Path
    base: "Base"
    size_bytes: int


def stitch(
    path: DocumentPath,
    *,
    out: Annotated[Path, Say("An empty folder to write it into.")],
    overrides: Overrides = None,
) -> Stitching:
    """Write the base a document stitches as one folder."""
    from dlm.store.folders import replace_folder
    from dlm.verbs.prepare import opened

    document, base = opened(path, overrides)
    if base.recipe is None:
        mend = "name parts: base_model: {encoder: ..., projector: ..., lm: ...}"
        raise UsageError(f"{base.key} is a base already", where=str(path), mend=mend)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError("not empty", where=str(out), mend="name an empty folder with --out")

    from dlm.model.load import load_base
    from dlm.use.export import write_stitched

    replace_folder(out.absolute(), lambda folder: write_stitched(load_base(base), folder))
    size = sum(each.stat().st_size for each in out.rglob("*") if each.is_file())
    return Stitching(out.absolute(), base, size)
