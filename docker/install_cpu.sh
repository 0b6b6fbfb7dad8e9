#!/bin/sh
# What the CPU image installs, run in the source folder; docker/try_install.sh runs the same in a fresh Debian.
# PIP_TORCH_INDEX is where the small CPU build of torch is, empty where the default index has it.
set -eu
index=${PIP_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
# torch first, from its CPU index: the default index may bring gigabytes of CUDA
torch=$(sed -n 's/^\(torch==.*\)$/\1/p' constraints.txt)
if [ -n "$index" ]; then
    python3 -m pip install "$torch" --index-url "$index" --extra-index-url https://pypi.org/simple
else
    python3 -m pip install "$torch"
fi
python3 -m pip install -c constraints.txt .
