"""ArrayRecord files: whether they are whole."""

from collections.abc import Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader


def damaged(shards: Sequence[tuple[Path, int]], *, whole: bool = False) -> str | None:
    """Returns a clause about the first file of records that is damaged, or None.

    Args:
      shards: the files, and how many records each must have.
      whole: whether to read all records, whose checksums are in the file, or only their number.
    """
    for path, length in shards:
        if not path.is_file():
            return f"{path} is missing"
        reader = ArrayRecordReader(str(path))
        try:
            found = reader.num_records()
            if whole:
                reader.read_all()
            reader.close()
        except RuntimeError:
            return f"{path} is damaged"
        if found != length:
            return f"{path} is damaged: it has {found} records, not {length}"
    return None
