import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import foolbox_carescale
from foolbox_carescale.evaluate import Evaluation, UserError
from foolbox_carescale.evaluate.config.schema import json_schema
from foolbox_carescale.evaluate.config.types import EVALUATION

PACKAGE = Path(foolbox_carescale.__file__).parent
GROUP_FILES = sorted((PACKAGE / "evaluate" / "config" / "conf").glob("*/*.yaml"))
RUN_FILES = sorted((PACKAGE.parent / "experiments").glob("*.yaml"))


def complaints(text, group=None):
    validator = Draft202012Validator(json_schema(group))
    found = list(validator.iter_errors(yaml.safe_load(text)))
    return [error.message for each in found for error in (each, *(each.context or ()))]


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_of_a_group_that_ships_is_valid(path):
    assert complaints(path.read_text(encoding="utf-8"), path.parent.name) == []


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_every_experiment_is_valid(path):
    assert complaints(path.read_text(encoding="utf-8")) == []


def test_the_resolved_default_is_valid():
    assert complaints(Evaluation().to_yaml()) == []


@pytest.mark.parametrize("group", [None, *EVALUATION.groups])
def test_schemas_are_schemas_and_every_key_is_described(group):
    schema = json.loads(json.dumps(json_schema(group)))
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema["$defs"].values()):
        for key, node in part["properties"].items():
            assert node["description"], key


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("modle: {}", "'modle' was unexpected"),
        ("seed: many", "'many' is not of type 'integer'"),
        ("model: resnet18", "is not of type 'object'"),
        ("model: {nme: resnet18}", "'nme' is not one of"),
        ("samples: 0", "0 is less than the minimum of 1"),
        ("data: {size: big}", "'big' is not of type 'integer'"),
        ("epsilons: {L2: 0.5}", "0.5 is not of type 'array'"),
        ("epsilons: {L2: [a]}", "'a' is not of type 'number'"),
        ("attacks: {mine: {name: L2PDG}}", "'L2PDG' is not one of"),
        ("attacks: {mine: {name: L2PGD, repeat: often}}", "'often' is not of type 'integer'"),
        ("executor: {name: slurm}", "'slurm' is not one of"),
        ("save: adversarial", "'adversarial' is not one of ['adversarial_examples', None]"),
        ("tracking: {nme: mlflow}", "'nme' was unexpected"),
        ("defaults: {data: folder}", "is not of type 'array'"),
    ],
)
def test_a_bad_file_is_invalid(text, complaint):
    assert any(complaint in message for message in complaints(text))


@pytest.mark.parametrize(
    "text",
    [
        "attacks: {mine: {name: L2PGD, steps: 3}}",
        "model: {_target_: my.model, width: 3}",
        "defaults: [{data: folder}, base, _self_]",
        "attacks: {mine: {_target_: my.attack, name: anything, steps: 3}}",
        "data: {classes: [3, tench], size: null}",
    ],
)
def test_arguments_beside_a_name_and_defaults_lists_are_valid(text):
    assert complaints(text) == []


def test_a_group_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="there is no group 'modle'; did you mean 'model'"):
        json_schema("modle")
