"""Import every node of the installed package; CI runs it away from the checkout."""

import importlib
import pkgutil
from pathlib import Path

import perception.nodes

names = [module.name for module in pkgutil.iter_modules(perception.nodes.__path__, "perception.nodes.")]
for name in names:
    importlib.import_module(name)
if not names:
    raise SystemExit("no nodes in the installed package")
print(f"imported {len(names)} nodes from {Path(perception.nodes.__path__[0])}")
