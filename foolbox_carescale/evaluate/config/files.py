"""YAML files of configs, and the model and data of a training's folder."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..serialization import LARGEST, check_yaml
from .validation import Tree, escape_interpolation

TRAINING, WEIGHTS = "train.json", "weights.safetensors"
"""Files of a training's folder: of every one, and of one that has ended."""


class BoundedFiles(FileConfigSource):
    """Let Hydra read the files that ``check_yaml`` accepts."""

    # a run reads five of them, a sweep for each of its runs
    _read: ClassVar[dict[Path, tuple[str, ConfigResult]]] = {}

    @staticmethod
    def scheme() -> str:
        """Return how its folders begin in a search path."""
        return "bounded"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config in a file."""
        path = Path(self.path) / self._normalize_file_name(config_path)
        text = read_yaml(path)
        known = self._read.get(path)
        if known is not None and known[0] == text:
            return copy.deepcopy(known[1])
        try:
            found = super().load_config(config_path)
        except OmegaConfBaseException:
            raise
        except (yaml.YAMLError, ValueError, OSError) as error:
            raise not_yaml(path, error) from error
        check_defaults(path, OmegaConf.to_container(found.config))
        self._read[path] = text, copy.deepcopy(found)
        return found


def read_training(folder: Path) -> Tree:
    """Return the model and the data of a training, with the weights that it made.

    Raises:
        UserError: The folder holds none, or one that has not ended.
    """
    if not (folder / TRAINING).is_file():
        raise UserError(
            f"{folder}: is a folder without a training; give a YAML file, or the folder that"
            " carescale train wrote"
        )
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder}: the training has not ended; resume it with carescale train"
            f" {folder / 'config.yaml'} output={folder}"
        )
    path = folder / "config.yaml"
    try:
        said = load_yaml(path, read_yaml(path))
        model, data = dict(said["model"]), dict(said["data"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is missing or damaged; give model and data yourself") from error
    model["weights"] = escape_interpolation(str(folder / WEIGHTS))
    return {"model": model, "data": data}


def load_yaml(path: Path, text: str) -> Tree:
    """Return the mapping that a YAML text holds.

    Raises:
        UserError: It holds something else.
    """
    try:
        loaded = OmegaConf.load(io.StringIO(text))
    except OmegaConfBaseException as error:  # a key that is no text, such as null
        raise UserError(f"{error.full_key or path}: {str(error).splitlines()[0]}") from error
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise not_yaml(path, error) from error
    content: Any = OmegaConf.to_container(loaded)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a list; give a mapping, such as 'seed: 0'")
    return content


def read_yaml(path: Path) -> str:
    """Return the text of a YAML file that may come from a stranger.

    Raises:
        FileNotFoundError: There is none.
        UserError: It cannot be read, or ``check_yaml`` refuses it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode()
        check_yaml(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise not_yaml(path, error) from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if len(content) > LARGEST:
        raise UserError(f"{path}: is larger than {LARGEST} bytes")
    return text


def not_yaml(path: object, error: Exception) -> UserError:
    """Return the error that a file is no YAML, with the place."""
    mark = getattr(error, "problem_mark", None)
    at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return UserError(f"{path}: is not valid YAML{at}: {getattr(error, 'problem', None) or error}")


def check_defaults(path: Path, content: Any) -> None:
    """Raise a UserError for a defaults list in a file that Hydra has no words for."""
    defaults = content.get("defaults") if isinstance(content, dict) else None
    if not isinstance(defaults or [], list):
        raise UserError(f"{path}: defaults is not a list; write [{{data: folder}}, _self_]")
    for entry in defaults or []:
        pairs = list(entry.items()) if isinstance(entry, dict) else [(entry, "")]
        group, option = pairs[0] if len(pairs) == 1 else (None, None)
        texts = [group, *(option if isinstance(option, list) else [option or ""])]
        plain = all(isinstance(text, str) and text == text.strip() for text in texts)
        if not group or not plain or "_self_" in texts[1:]:
            raise UserError(
                f"{path}: defaults: {entry!r} is neither a file nor one group with its choice;"
                " write [base, {data: folder}, _self_]"
            )
