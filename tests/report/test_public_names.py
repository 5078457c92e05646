"""The public names of the room."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

from neuroattn import report


def test_no_public_name_is_hidden_by_a_module_of_the_same_name() -> None:
    # Catches a function that turns into its module once another name of that file was used.
    for _ in range(2):
        for name in report.__all__:
            assert callable(getattr(report, name))
            assert not isinstance(getattr(report, name), ModuleType)


def test_tables_and_the_report_load_no_plotting_library() -> None:
    # Catches an import of seconds for a table in the terminal.
    code = (
        "import sys; from neuroattn.report import print_table, summary_table, write_report;"
        "print(sorted({'matplotlib', 'nilearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
