"""The JSON schema of ``carescale train``."""

import json
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

import foolbox_carescale
from foolbox_carescale.cli import main
from foolbox_carescale.evaluate.config.schema import json_schema
from foolbox_carescale.evaluate.config.types import EVALUATION
from foolbox_carescale.training.config import TRAINING, Training, load_training

FOLDER = Path(foolbox_carescale.__file__).parent / "training" / "conf"
GROUP_FILES = sorted(FOLDER.glob("*/*.yaml"))


def complaints(text, of="train"):
    validator = Draft202012Validator(json_schema(of, (EVALUATION, TRAINING)))
    found = list(validator.iter_errors(yaml.safe_load(text)))
    return [error.message for each in found for error in (each, *(each.context or ()))]


def test_every_file_of_a_group_that_ships_is_valid():
    for path in GROUP_FILES:
        assert complaints(path.read_text(encoding="utf-8"), path.parent.name) == []


def test_resolved_configs_are_valid():
    for overrides in [[], ["recipe=pgd-at", "recipe.p=inf", "optimizer=sgd"]]:
        assert complaints(load_training(None, overrides).to_yaml()) == []
        assert complaints(Training().to_yaml()) == []


def test_schemas_are_schemas_and_every_key_is_described():
    for of in ["train", *TRAINING.groups]:
        schema = json.loads(json.dumps(json_schema(of, (EVALUATION, TRAINING))))
        Draft202012Validator.check_schema(schema)
        for part in (schema, *schema["$defs"].values()):
            for key, node in part["properties"].items():
                assert node["description"], key


def test_a_bad_file_is_invalid():
    for text, complaint in [
        ("recipy: {}", "'recipy' was unexpected"),
        ("epochs: many", "'many' is not of type 'integer'"),
        ("precision: half", "'half' is not one of"),
        ("recipe: {name: pgd}", "'pgd' is not one of"),
        ("recipe: {name: pgd-at, epsilon: 1}", "'epsilon' was unexpected"),
        ("recipe: {name: pgd-at, eps: big}", "'big' is not valid under any"),
        ("model: {nme: resnet18}", "'nme' is not one of"),
        ("optimizer: {lr: fast}", "'fast' is not of type 'number'"),
        ("tracking: {name: wandb}", "'wandb' is not one of"),
        ("attacks: {}", "'attacks' was unexpected"),
    ]:
        assert any(complaint in message for message in complaints(text))


def test_arguments_beside_a_name_and_defaults_lists_are_valid():
    for text in [
        "optimizer: {name: SGD, momentum: 0.9}",
        "schedule: {name: StepLR, step_size: 30}",
        "defaults: [{recipe: pgd-at}, base, _self_]",
        "model: {_target_: my.model, width: 3}",
    ]:
        assert complaints(text) == []


def test_the_command_prints_it(capsys):
    for of, key in (("train", "recipe"), ("recipe", "kernel_size")):
        assert main(["schema", of]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["title"] == f"carescale {of}"
        assert key in printed["properties"]
    assert main(["schema", "recpe"]) == 2
    assert "there is no group 'recpe'; did you mean 'recipe'" in capsys.readouterr().err
