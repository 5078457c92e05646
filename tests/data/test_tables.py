"""CSV tables: whole lines, numbers and ROI memberships."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.tables import numbers, read_rois, read_table
from neuroattn.errors import FileError, MismatchError


def _write(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_cells_stay_text_and_quotes_are_understood(tmp_path) -> None:
    # Catches "0012" that becomes 12, a byte order mark in the first name, commas in quotes.
    text = '\ufeffimage,note\r\n0012,"a, b"\r\n\r\nx é,\r\n'
    path = _write(tmp_path / "t.csv", text)
    assert read_table(path) == {"image": ["0012", "x é"], "note": ["a, b", ""]}
    path = _write(tmp_path / "t.tsv", "a\tb\n1,5\t2\n")
    assert read_table(path) == {"a": ["1,5"], "b": ["2"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", "line 3: 1 cells, the header has 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 cells"),
        ("a,a\n1,2\n", "column 'a' twice"),
        ("a,b\n", "0 rows under"),
        ("", "0 rows under"),
        ('a,b\n1,"2\n', "no UTF-8 CSV"),
    ],
)
def test_a_table_that_is_not_whole_is_named_with_the_line(tmp_path, text, words) -> None:
    # Catches a truncated last line that is filled with NaN.
    with pytest.raises(FileError, match=rf"t\.csv.*{words}"):
        read_table(_write(tmp_path / "t.csv", text))


def test_other_encodings_folders_and_missing_tables_are_named(tmp_path) -> None:
    # Catches a UnicodeDecodeError at the user.
    with pytest.raises(FileError, match=r"t\.csv is no UTF-8"):
        read_table(_write(tmp_path / "t.csv", "é\n1\n", "latin1"))
    with pytest.raises(FileError, match="no UTF-8 CSV"):
        read_table(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        read_table(tmp_path / "none.csv")


def test_numbers_are_read_exactly_and_errors_name_row_column_and_cell() -> None:
    # Catches empty cells as 0, and a message that does not lead to the cell.
    result = numbers(["1", " 2.5e-3", "", "nan"], "v1", "t.csv")
    np.testing.assert_array_equal(result, [1, 0.0025, np.nan, np.nan])
    assert numbers(["3", "-1"], "run", "t.csv", int).dtype == np.int64
    with pytest.raises(FileError, match=r"t\.csv, data row 2, column 'v1': '1,5' is no number"):
        numbers(["1", "1,5"], "v1", "t.csv")
    with pytest.raises(FileError, match=r"column 'run': '' is no integer"):
        numbers([""], "run", "t.csv", int)


LONG = "voxel,roi\nc,V1\na,V1\na,FFA\n"
WIDE = "voxel,V1,FFA,none\nc,1,0,0\na,TRUE,yes,\nb,0.0,no,False\n"
ORDERED = "V1,FFA,none\n1,1,0\n0,0,0\n1,0,0\n"


@pytest.mark.parametrize("text", [LONG, WIDE, ORDERED])
def test_long_wide_and_ordered_tables_give_the_same_rois(tmp_path, text) -> None:
    # Catches memberships by the order of lines where voxels are named.
    masks = read_rois(_write(tmp_path / "roi.csv", text), ["a", "b", "c"], 3)
    assert masks["V1"].tolist() == [True, False, True]
    assert masks["FFA"].tolist() == [True, False, False]
    assert "none" not in masks or not masks["none"].any()


def test_voxels_without_names_are_called_by_number_from_zero(tmp_path) -> None:
    # Catches counting from one.
    masks = read_rois(_write(tmp_path / "roi.csv", "voxel,roi\n0,V1\n2,V1\n"), None, 3)
    assert masks["V1"].tolist() == [True, False, True]
    with pytest.raises(MismatchError, match=r"voxel '3' is not among the 3.*0 to 2"):
        read_rois(_write(tmp_path / "roi.csv", "voxel,roi\n3,V1\n"), None, 3)


def test_a_name_of_several_voxels_means_all_of_them(tmp_path) -> None:
    # Catches the last one winning.
    path = _write(tmp_path / "roi.csv", "voxel,roi\nleft,V1\n")
    assert read_rois(path, ["left", "right", "left"], 3)["V1"].tolist() == [True, False, True]


def test_what_does_not_fit_the_voxels_is_named(tmp_path) -> None:
    # Catches masks of another length and cells that are no truth value.
    with pytest.raises(MismatchError, match=r"roi\.csv has 3 lines for 4 voxels"):
        read_rois(_write(tmp_path / "roi.csv", ORDERED), None, 4)
    with pytest.raises(MismatchError, match=r"'vox1'.*did you mean 'vox-1'"):
        read_rois(_write(tmp_path / "roi.csv", "voxel,roi\nvox1,V1\n"), ["vox-1", "vox-2"], 2)
    with pytest.raises(FileError, match=r"data row 2, column 'V1': '0.5' is not 0 or 1"):
        read_rois(_write(tmp_path / "roi.csv", "V1\n1\n0.5\n"), None, 2)
