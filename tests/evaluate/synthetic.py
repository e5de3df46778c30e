"""Run folders of any size with invented rows, for what only reads them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foolbox_carescale.evaluate import Results
from foolbox_carescale.evaluate.store.folder import RunFolder
from foolbox_carescale.evaluate.store.schema import SCHEMA, TaskResult


def run(
    path,
    *,
    attacks=2,
    epsilons=(0.5, 1.0),
    samples=50,
    classes=10,
    p=2.0,
    side=0,
    model="network",
    config="seed: 0\n",
    warnings=(),
    nearest=(),
    clean=0.9,
    class_names=(),
):
    """A complete run; robust accuracy falls with epsilon, and with the number of the attack.

    ``nearest`` are the numbers of those that are minimum-norm attacks; ``clean`` is about the
    clean accuracy.
    """
    generator = np.random.default_rng(0)
    folder = RunFolder(path)
    tasks = attacks * len(epsilons)
    folder.start({"fingerprint": "invented", "tasks": tasks, "class_names": list(class_names)})
    folder.open()
    folder.write_config(config)
    folder.write_warnings(list(warnings))
    numbers = np.arange(samples)
    labels = numbers % classes
    right = generator.random(samples) < clean
    images = generator.random((4, 3, side, side), dtype=np.float32) if side else None
    for attack in range(attacks):
        withstands = generator.random(samples) * 2 * max(epsilons) / (1 + attack)
        for number, epsilon in enumerate(epsilons):
            robust = right & (withstands > epsilon)
            columns = {
                "model": model,
                "data": "invented",
                "setting": attack * len(epsilons) + number,
                "attack": f"attack_{attack}",
                "attack_name": "L2PGD",
                "attack_params": "{}",
                "attack_repeat": 1,
                "library": ("foolbox_carescale", "foolbox")[attack % 2],
                "p": p,
                "epsilon": epsilon,
                "batch": 0,
                "seed": 0,
                "sample": numbers,
                "input_hash": [f"{i:032x}" for i in range(samples)],
                "label": labels,
                "clean_prediction": np.where(right, labels, labels + 1),
                "attacked": right,
                "adversarial_prediction": pa.array(labels + ~robust, mask=~right),
                "success": pa.array(~robust, mask=~right),
                "robust": robust,
                "in_bounds": pa.array(right, mask=~right),
                "clean_loss": 0.1,
                "loss": generator.exponential(1 + attack, samples),
                "reachable_norm": 100.0,
            }
            for name in (
                *("norm", "norm_over_epsilon", "returned_norm"),
                *("forward_passes", "backward_passes"),
            ):
                columns[name] = pa.array(1 - 0.1 * generator.random(samples), mask=~right)
            columns["norm"] = pc.multiply(columns["norm_over_epsilon"], epsilon)
            if attack in nearest:
                columns["minimum_norm"] = pa.array(withstands, mask=~right)
            columns["seconds"] = pa.array(np.full(samples, 1e-3), mask=~right)
            table = {
                field.name: _column(columns.get(field.name), field.type, samples)
                for field in SCHEMA
            }
            shown = images is not None and number == len(epsilons) // 2
            task = f"{attack:02d}-{number}"
            examples = _examples(attack * len(epsilons) + number, images, labels) if shown else None
            folder.write(TaskResult(task, pa.table(table, schema=SCHEMA), examples))
    folder.close()
    return Results.load(path)


def _column(value, kind, samples):
    if isinstance(value, np.ndarray | pa.Array | list):
        return pa.array(value).cast(kind)
    return pa.array([value] * samples, kind)


def _examples(setting, images, labels):
    return {
        "setting": np.array(setting),
        "label": labels[: len(images)],
        "prediction": labels[: len(images)] + setting % 2,
        "clean": images,
        "perturbed": np.clip(images + 0.1 * (setting + 1) * (images - 0.5), 0, 1),
    }
