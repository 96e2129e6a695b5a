"""The target tasks: one file of readers and one protocol (YAML) a task.

A file here registers its readers with `rdslib.tasks.base.register`; nothing else lists them.
"""

from importlib import import_module
from pkgutil import iter_modules

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
