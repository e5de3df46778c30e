"""The config of executors: where a run's tasks are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from .validation import Config, Count, Natural, Real, checked_by, no_such

EXECUTORS = ("local", "ray")
EXECUTOR_GROUP = "carescale.executors"


def executor_names() -> tuple[str, ...]:
    """Return the names of the executors that ship, and of those that other packages offer."""
    return (*EXECUTORS, *(found.name for found in entry_points(group=EXECUTOR_GROUP)))


def _check_executor(name: str) -> None:
    if name not in EXECUTORS and name not in executor_names():  # which looks at all packages
        raise ValueError(no_such(name, executor_names()))


def _to_devices(devices: Any) -> Any:
    listed = devices if isinstance(devices, list) else []
    known = [isinstance(one, str) or (type(one) is int and one >= 0) for one in listed]
    if devices != "all" and not (known and all(known)):
        raise ValueError(f"{devices!r} are none; give numbers of GPUs, [0, 1], all or [cpu, cpu]")
    return devices


Share = Annotated[Real, Field(ge=0)]
Devices = Annotated[list[Natural | str] | Literal["all"], BeforeValidator(_to_devices)]
Executor = Annotated[
    str,
    checked_by(_check_executor),
    Field(json_schema_extra=lambda schema: schema.update(enum=[*executor_names()])),
]


@dataclass
class ExecutorConfig(Config):
    """The executor of a run's tasks; every executor gives the same results."""

    name: Executor = "local"
    """``local`` (this process), ``ray``, or that of an entry point in the group
    ``carescale.executors``.
    """
    devices: Devices | None = None
    """Devices of this machine, with a process for each: numbers of GPUs, such as ``[0, 1]``,
    ``all`` GPUs, or names, such as ``[cpu, cpu]``; one that occurs twice is shared. None takes the
    run's ``device``, in this process. For ``local`` only.
    """
    address: str | None = None
    """Address of the Ray cluster; ``auto`` takes the one of this machine, and None starts one."""
    cpus: Share = 1.0
    """CPUs of each Ray worker."""
    gpus: Share = 0.0
    """GPUs of each Ray worker; a fraction shares a GPU."""
    workers: Count | None = None
    """Number of Ray workers; None starts as many as fit into the cluster."""
    retries: Natural = 3
    """Further attempts at a task whose Ray worker died."""
    runtime_env: dict[str, Any] = field(default_factory=dict)
    """Ray's runtime environment, such as ``{working_dir: .}`` for your own modules that
    ``_target_`` names: ``working_dir``, ``py_modules``, ``excludes``, ``pip`` (requirements by
    name) and some ``env_vars``; others with ``--allow-code``.
    """

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, devices: Any, found: ValidationInfo) -> Any:
        name = found.data.get("name", "local")
        if devices is not None and name != "local":
            raise ValueError(f"{devices} is for executor=local, not for {name}; leave it out")
        return devices
