"""The processes that train together: one on a laptop, many under ``torchrun``.

PyTorch's own engine (DistributedDataParallel over gloo or nccl) does the work; here is only what
the loop asks of it. Alone, nothing is initialised and every question has a trivial answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
"""PyTorch's communication by the kind of device."""

PATIENCE = timedelta(days=7)
"""How long a process waits for features that another one makes."""


@dataclass(frozen=True)
class World:
    """This process among the `size` that train together, and among those of its machine.

    `patient` is their group for waits that may take long.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient: Any = None

    @property
    def writes(self) -> bool:
        """Tell whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of every process' values."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Return every process' values, one after the other."""
        if self.size == 1:
            return list(values)
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, list(values))
        return [value for part in parts for value in part]

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """Let one process of each machine go first, the others after it: for filling caches."""
        if self.size > 1 and self.local_rank:
            distributed.barrier(self.patient)
        try:
            yield
        finally:
            if self.size > 1 and not self.local_rank:
                distributed.barrier(self.patient)

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with its gradients averaged over all processes."""
        if self.size == 1:
            return network
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def apart(self, parallel: nn.Module) -> AbstractContextManager[None]:
        """Keep gradients here for now, to travel together with the next ones."""
        if isinstance(parallel, nn.parallel.DistributedDataParallel):
            return parallel.no_sync()
        return nullcontext()


def from_environment() -> World:
    """Return the place torchrun gave this process; alone, where it was started by hand."""
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return World(*(int(os.environ.get(name, number)) for name, number in alone.items()))


def restarted() -> bool:
    """Tell whether torchrun started this process again after a failure (``--max-restarts``)."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """Meet the other processes, and part from them at the end."""
    if world.size == 1:
        yield world
        return
    store, rank, size = next(rendezvous("env://"))
    if world.local_size == world.size:
        # After a restart torchrun's store still holds where the dead processes listened
        # (pytorch/pytorch#135712). One machine's count of restarts is every process' own.
        store = PrefixStore(f"restart-{_restarts()}", store)
    distributed.init_process_group(BACKENDS[device.type], store=store, rank=rank, world_size=size)
    try:
        yield replace(world, patient=distributed.new_group(backend="gloo", timeout=PATIENCE))
    finally:
        distributed.destroy_process_group()
