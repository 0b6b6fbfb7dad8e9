"""`perception train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    network: Annotated[str, typer.Argument(help="ddrnet, p2at, ...: what bundled weights there are of.")],
    world: Annotated[
        str, typer.Option(help="The rig whose sensors are simulated: a shipped one, or a folder.")
    ] = "simulated_car",
    steps: Annotated[
        int | None, typer.Option(min=1, help="In place of the recipe's, in all its cycles together.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=999, help="In place of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside OUT.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of torch; another number changes the last bits.")] = 1,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps from one checkpoint to the next.")] = 200,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default CARD.safetensors in the user's cache.")
    ] = None,
) -> None:
    """Train NETWORK in the synthetic world and write its weights, for example: perception train ddrnet.

    Without --steps and --seed this is what made the bundled weights (docs/training.md).
    """
    import sys
    from dataclasses import replace

    import torch

    from perception.errors import UserError
    from perception.networks.address import file_sha256, user_cache
    from perception.training.loop import train as run
    from perception.training.progress import Progress
    from perception.training.tasks import training_of
    from perception.training.world import world_rig, world_version

    recipe, make_task = training_of(network)
    if steps is not None:
        recipe = recipe.of_steps(steps)
    recipe = replace(recipe, seed=recipe.seed if seed is None else seed)
    chosen = _device(device)
    options = {"world": world, "steps": steps, "seed": seed, "device": device, "threads": threads}
    plain = {"steps": None, "seed": None, "device": "cpu", "threads": 1}
    given = [f"--{name} {value}" for name, value in options.items() if value != plain.get(name, "")]
    if out is not None and out.suffix != ".safetensors":
        raise UserError(f"--out {out}: expected a file that ends with .safetensors")
    torch.set_num_threads(threads)
    trained = run(
        make_task(recipe, world, chosen), recipe, out or user_cache() / "weights" / f"{recipe.card}.safetensors",
        provenance={
            "command": " ".join(["perception train", network, *given]), "world": world,
            "world_version": world_version(world_rig(world)),
        },
        resume=resume, checkpoint_every=checkpoint_every, threads=threads, progress=Progress(sys.stderr),
    )  # fmt: skip
    for name, value in trained.metrics.items():
        print(f"{name:<28} {value:.4f}")
    print(f"{trained.path}: {trained.path.stat().st_size / 1e6:.2f} MB, sha256:{file_sha256(trained.path)}")


def _device(name: str) -> torch.device:  # type: ignore[name-defined]  # noqa: F821
    import torch

    from perception.errors import UserError

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no GPU here")
    return device
