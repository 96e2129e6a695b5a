"""A kernel runs notebooks one after another: to start one, and import, takes longer than most figures."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.log import logger

NAME = "kept-kernel"
# Nothing of one notebook is seen by the next, whose cells count from 1 again.
EMPTY = "get_ipython().reset(new_session=True)"


class _KeptKernel(Engine):  # type: ignore[misc]
    """What papermill calls with `km`, a kernel that may have run notebooks before and may run others."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, km: AsyncKernelManager, **given: Any
    ) -> NotebookNode:
        client = PapermillNotebookClient(
            nb_man,
            km=km,
            kernel_name=kernel_name,
            startup_timeout=given["start_timeout"],
            log=logger,
            extra_arguments=["--log-level=CRITICAL", "--InteractiveShellApp.ignore_cwd=True"],
        )
        try:
            executed = client.execute()
            client.wait_for_reply(client.kc.execute(EMPTY, silent=True))
            return executed
        finally:
            if client.kc is not None:
                client.kc.stop_channels()


papermill_engines.register(NAME, _KeptKernel)

# A child by vfork() that Ctrl-C meets dies while it is still in this process's group. jupyter_client then
# takes this for the kernel's and kills it, and with it this process. A child by fork() lives on.
subprocess._USE_VFORK = False  # type: ignore[misc]


def kernel(sockets: Path) -> AsyncKernelManager:
    """Return a kernel, which its first notebook starts; its sockets are in a folder of its own.

    No other kernel can be met there, as it could at a port. Where paths of sockets have to be shorter, it has
    ports.
    """
    ipc = os.name == "posix" and len(os.fsencode(sockets)) < 90
    return AsyncKernelManager(**({"transport": "ipc", "ip": str(sockets)} if ipc else {}))


def end(kernels: Iterable[AsyncKernelManager]) -> None:
    """Kill those kernels that were started."""

    async def kill() -> None:
        for each in kernels:
            if each.has_kernel:
                await each.shutdown_kernel(now=True)

    asyncio.run(kill())
