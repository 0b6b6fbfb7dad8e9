"""`perception verify`: run networks or engines against parity cases."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception.networks.parity.verify import Verdict


def verify(
    cases: Annotated[list[Path], typer.Argument(help="Cases (<case>.json, <case>.npz beside it), or folders of them.")],
    engine: Annotated[
        str, typer.Option(help="torch (the reference), torch-cuda, onnxruntime, openvino, tensorrt or auto.")
    ] = "torch",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 or int8; below fp32 the class `half` judges.")
    ] = "fp32",
    save: Annotated[Path | None, typer.Option(help="Write our outputs to this npz (several cases: a folder).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> int:
    """Run the network of each case with filled weights and compare, for example: perception verify golden/ddrnet."""
    from perception.engines.choose import runner
    from perception.errors import UserError
    from perception.networks.parity.case import read_case
    from perception.networks.parity.verify import find_cases, save_outputs, summary, verify_case

    paths = find_cases(cases)
    if save is not None and save.suffix == ".npz" and len(paths) > 1:
        raise UserError(f"--save {save}: one file for {len(paths)} cases; give a folder, each case gets its own npz")
    run_on = runner(engine, precision)
    verdicts = []
    for path in paths:
        verdict, outputs = verify_case(read_case(path), run_on, half=precision != "fp32")
        verdicts.append(verdict)
        if save is not None and outputs:
            save_outputs(save if save.suffix == ".npz" else save / f"{path.stem}.npz", outputs)
        if not as_json:
            print(_line(verdict, engine, precision))
    if as_json:
        print(
            json.dumps({"cases": [_as_json(verdict) for verdict in verdicts], "summary": summary(verdicts)}, indent=1)
        )
    else:
        print(summary(verdicts))
    return 1 if any(verdict.passed is False for verdict in verdicts) else 0


def _line(verdict: Verdict, engine: str, precision: str) -> str:
    judged_by = "" if precision == "fp32" else f" [class half: {engine} {precision}]"
    if verdict.error:
        return f"FAILED  {verdict.case}: {verdict.error}"
    if verdict.passed is None:
        return f"ran     {verdict.case}: nothing was compared, the case holds inputs only"
    worst = verdict.worst
    assert worst is not None, "a judged case has required outputs"
    failed = [row.name for row in verdict.rows if row.required and not row.passed]
    which = f"failed: {', '.join(failed)}" if failed else worst.name
    return (
        f"{'FAILED' if failed else 'passed'}  {verdict.case}: {worst.worst:.3g} of the tolerance ({which}){judged_by}"
    )


def _as_json(verdict: Verdict) -> dict[str, object]:
    rows = [asdict(row) | {"worst": row.worst if math.isfinite(row.worst) else None} for row in verdict.rows]
    return {"case": verdict.case, "passed": verdict.passed, "error": verdict.error, "outputs": rows}
