"""`report.md`, `report.csv` and `report.html` of some run folders."""

from collections.abc import Sequence
from pathlib import Path

from nlnet.errors import UserError
from nlnet.reports.assemble import Part, assemble
from nlnet.reports.page import page
from nlnet.reports.sources.find import find_runs
from nlnet.reports.tables import load_table, table_names
from nlnet.reports.texts import csv_text, markdown
from nlnet.saving import write_bytes

FILES = ("report.md", "report.csv", "report.html")


def write_report(places: Sequence[Path], names: Sequence[str], out: Path) -> tuple[list[Part], list[str]]:
    """Write the three files to `out`, and return what they hold: the tables, and a line for each broken folder.

    Args:
        places: run folders, and folders that hold some.
        names: of the tables; without any, all that the runs belong to, and a plain one of the other runs.
        out: the folder, which is made.

    Raises UserError where there is no such folder or table, and where there is no run at all.
    """
    tables = [load_table(name) for name in names or table_names()]
    runs, broken = find_runs(places)
    if not runs:
        raise UserError(
            f"no run in {', '.join(map(str, places))}: a run's folder has a summary.json; give other folders", *broken
        )
    parts = assemble(runs, tables, chosen=bool(names))
    texts = (markdown(parts, broken), csv_text(parts), page(parts, broken))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out}: cannot be made: {error.strerror}; choose another folder") from None
    for file, text in zip(FILES, texts, strict=True):
        write_bytes(out / file, text.encode())
    return parts, broken
