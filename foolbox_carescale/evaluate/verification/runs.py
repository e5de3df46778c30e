"""Check the adversarial examples that a run saved, against its own results."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.compose import load_evaluation
from ..config.types import norm_name
from ..data.sources import open_data
from ..errors import UserError
from ..models.loading import load_model
from ..store.checksums import IntegrityError
from ..store.folder import RunFolder
from .measure import Check, Verification, merge, verify


@dataclass(frozen=True)
class VerifiedSetting:
    """The adversarial examples of one attack at one epsilon.

    Attributes:
        attack: Name of the attack in the run.
        found: What was measured of those that were attacked; one more check, "outcomes", says
            whether the model is fooled by those that were stored as adversarial, and no others.
    """

    attack: str
    found: Verification


def verify_run(path: str | Path, *, allow_code: bool = False) -> list[VerifiedSetting]:
    """Check every adversarial example that a run with ``save=adversarial_examples`` stored.

    Images, labels and the model are those of the run's config, and have to be there still.

    Args:
        path: The run folder.
        allow_code: Accept a config that can run any program: see docs/security.md.

    Returns:
        One entry per attack and epsilon, in the run's order.

    Raises:
        UserError: The folder holds no adversarial examples, or they are damaged; the data are other
            ones.
    """
    folder = RunFolder(Path(path))
    if not (folder.path / "run.json").is_file() or folder.record() is None:
        raise UserError(f"RUN: {folder.path} holds no run (run.json); give a run folder")
    evaluation = load_evaluation(folder.path / "config.yaml", allow_code=allow_code)
    data = open_data(evaluation.data, evaluation.samples)
    places = {int(place): position for position, place in enumerate(data.index)}
    model, _ = load_model(evaluation.model, device="auto", data=data.name)
    names: dict[int, str] = {}
    parts: defaultdict[int, list[Verification]] = defaultdict(list)
    differing: Counter[int] = Counter()
    try:
        for number, attack, arguments, success in _settings_of(folder):
            samples = arguments.pop("samples").tolist()
            if unknown := [sample for sample in samples if sample not in places]:
                raise UserError(
                    f"data: {data.name} has no sample {unknown[0]}, which the run attacked"
                )
            batch = data.batch([places[sample] for sample in samples])
            found = verify(batch.images, labels=batch.labels, model=model, **arguments)
            assert found.adversarial is not None
            differing[number] += int(
                np.count_nonzero((found.adversarial != batch.labels) != success)
            )
            names[number] = attack
            parts[number].append(found)
    except IntegrityError as error:
        raise UserError(f"RUN: is damaged ({error}); compute it again") from error
    if not parts:
        kept = evaluation.save == "adversarial_examples"
        reason = "no sample was attacked" if kept else "run it with save=adversarial_examples"
        raise UserError(f"RUN: {folder.path} holds no adversarial examples; {reason}")
    settings = []
    for number in sorted(parts):
        found = merge(parts[number])
        text = f"{differing[number]} of {len(found.excess)} outcomes are not those stored"
        found.checks.append(Check("outcomes", not differing[number], text))
        settings.append(VerifiedSetting(names[number], found))
    return settings


def _settings_of(folder: RunFolder) -> Iterator[tuple[int, str, dict[str, Any], Any]]:
    """Yield number and attack of each setting of a task, arguments of ``verify``, and successes."""
    for rows, arrays in folder.adversarial_examples(_COLUMNS):
        numbers, samples = rows["setting"].to_numpy(), arrays["sample"].tolist()
        for number in np.unique(numbers).tolist() if samples else ():
            own = rows.filter(np.equal(numbers, number))
            epsilon = float(own["epsilon"][0].as_py())
            columns = (own[name].to_pylist() for name in ("sample", "success"))
            stored = dict(zip(*columns, strict=True))
            arguments = {
                "samples": arrays["sample"],
                "adversarial": arrays[f"epsilon={epsilon!r}"],
                "epsilon": epsilon,
                "norm": norm_name(float(own["p"][0].as_py())),
            }
            success = np.array([stored[sample] for sample in samples], bool)
            yield number, own["attack"][0].as_py(), arguments, success


_COLUMNS = ("setting", "attack", "p", "epsilon", "sample", "success")
