"""One sentence out of a parser's page, on pages that jsonargparse really writes."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentParser

from neuroattn.cli.messages import check_recipes, constructor_errors, explain, recipe_errors
from neuroattn.data.reader import Reader
from neuroattn.encoders.transformer import TransformerModule
from neuroattn.errors import FileError, InputError
from neuroattn.training.datamodule import EncodingData
from neuroattn.training.module import EncoderModule


class Parser(ArgumentParser):
    def error(self, message, ex=None):
        raise InputError(explain(message, [action.dest for action in self._actions])) from ex


def told(*arguments: str) -> str:
    """What the parser of model and data says to arguments."""
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(EncoderModule, "model")
    parser.add_class_arguments(EncodingData, "data")
    with pytest.raises(InputError) as caught:
        parser.parse_args(list(arguments))
    message = str(caught.value)
    assert "\n" not in message
    assert "Union" not in message
    assert "<class" not in message
    return message


MODEL = '{"class_path": "neuroattn.encoders.TransformerModule", "init_args": %s}'


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--dat.seed", "1"], ["--dat.seed", "did you mean 'data.seed'?"]),
        (["--data.sed", "1"], ["--data.sed", "did you mean 'data.seed'?"]),
        (["--data.seed", "x"], ["data.seed", "Expected int", "x"]),
        (["--data.zscore", "perhaps"], ["data.zscore", "Expected bool", "perhaps"]),
        (["--data.split.train", "x"], ["data.split", "train", "Expected float", "x"]),
        (["--data.split", '{"trian": 0.5}'], ["data.split", "trian", "did you mean 'train'?"]),
        (
            ["--data.source", "neuroattn.data.SimulatedCorte"],
            ["data.source", "'SimulatedCorte'", "did you mean 'SimulatedCortex'?"],
        ),
        (
            ["--data.source", "neuroattn.encoders.RidgeEncoder"],
            ["data.source", "RidgeEncoder", "not correspond to a subclass of Reader"],
        ),
        (
            ["--model", MODEL % '{"network": {"dimm": 3}}'],
            ["model: network", "'dimm'", "did you mean 'dim'?"],
        ),
        (
            ["--model", MODEL % '{"network": {"dim": "wide"}}'],
            ["network: dim", "Expected int", "wide"],
        ),
        (
            ["--model", MODEL % '{"optimisation": {"epochs": [1]}}'],
            ["optimisation: epochs", "Expected int", "[1]"],
        ),
    ],
)
def test_the_key_the_finding_and_the_closest_match_are_named(arguments, parts):
    # Catches the wrong alternative of a union, a lost key path, a hint that is not there.
    message = told(*arguments)
    for part in parts:
        assert part in message, message


def test_a_missing_argument_gets_no_hint():
    # Catches "did you mean" of a key that was never typed.
    assert "did you mean" not in told("--data.seed", "1")


def test_a_key_that_exists_is_not_suggested():
    # Catches "argument --run: expected one argument; did you mean 'run'?".
    for sentence in ("argument --run: expected one argument", "Option 'run' is not allowed here"):
        assert explain(sentence, ["run", "run.first"]) == sentence


def test_the_alternative_with_a_hint_is_told():
    # Catches the last or the first alternative of a union, whatever it says.
    page = (
        'Parser key "a":\n  - Expected a path but x either not accessible or invalid\n'
        "  - Expected a <class 'int'>\n  - Option 'x' is not accepted; did you mean 'y'?"
    )
    for lines in (page.splitlines(), [page.splitlines()[i] for i in (0, 3, 2, 1)]):
        assert explain("\n".join(lines), []) == "a: Option 'x' is not accepted; did you mean 'y'?"


def test_alternatives_of_equal_worth_are_all_told():
    # Catches the first type of a union standing for all of them.
    message = (
        'Parser key "a":\n  Does not validate against any of the Union subtypes\n'
        "  Subtypes: [<class 'int'>, typing.Literal['x', 'y']]\n  Errors:\n"
        "    - Expected a <class 'int'>\n    - Expected a typing.Literal['x', 'y']\n"
        "  Given value type: <class 'str'>\n  Given value: z"
    )
    assert explain(message, []) == "a: Expected int or one of 'x', 'y'. Got value: z"


def test_a_message_without_any_structure_is_kept():
    # Catches an empty error.
    assert explain("something\n  odd", []) == "something odd"
    assert explain("", []) == ""


def test_a_very_long_reason_is_cut():
    # Catches a page of values in one message.
    assert len(explain("x" * 5000, [])) < 700


def test_a_constructors_refusal_comes_through_the_parser():
    # Catches jsonargparse's traceback where a constructor said what is wrong.
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(EncoderModule, "model")
    wrong = MODEL % '{"optimisation": {"precision": "bananas"}}'
    settings = parser.parse_args(["--model", wrong])
    with (
        pytest.raises(InputError, match=r"^precision='bananas' is unknown\. Allowed: 16-mixed"),
        constructor_errors(),
    ):
        parser.instantiate(settings)
    with pytest.raises(InputError, match="mine"), constructor_errors():
        raise InputError("mine")


def test_recipes_are_files_with_keys(tmp_path):
    # Catches a parser's error that names no file.
    (tmp_path / "broken.yaml").write_text("data: [")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "good.yaml").write_text("data: 1\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    check_recipes(["--config", str(tmp_path / "good.yaml"), "-c", str(tmp_path / "good.yaml")])
    check_recipes(["--run", "no/file", "--config"])
    for flag in ("--config", "-c"):
        with pytest.raises(FileError, match=r"broken\.yaml is not valid YAML.*line 1|line 2"):
            check_recipes([flag, str(tmp_path / "broken.yaml")])
    with pytest.raises(FileError, match=r"recipe .*nope\.yaml does not exist"):
        check_recipes([f"--config={tmp_path / 'nope.yaml'}"])
    with pytest.raises(FileError, match="is a folder"):
        check_recipes(["--config", str(tmp_path)])
    with pytest.raises(FileError, match=r"bytes\.yaml is not valid YAML"):
        check_recipes(["--config", str(tmp_path / "bytes.yaml")])
    with pytest.raises(InputError, match=r"empty\.yaml holds nothing"):
        check_recipes(["--config", str(tmp_path / "empty.yaml")])
    with pytest.raises(InputError, match=r"list\.yaml holds \[1\]"):
        check_recipes(["--config", str(tmp_path / "list.yaml")])


def test_an_environment_variable_that_is_not_set_is_named(monkeypatch):
    # Catches OmegaConf's own error.
    from omegaconf import OmegaConf

    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    made = OmegaConf.create({"a": {"b": "${oc.env:NO_SUCH_VARIABLE}"}})
    with pytest.raises(InputError, match=r"recipe, key a\.b:.*NO_SUCH_VARIABLE"), recipe_errors():
        _ = made.a.b


def test_the_rooms_that_recipes_name_are_importable():
    # Catches a class path in a recipe that no longer exists.
    assert issubclass(TransformerModule, EncoderModule)
    assert Reader.__module__ == "neuroattn.data.reader"
