"""`perception doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Check this machine, for example: perception doctor.

    A line a finding; exit code 1 where something keeps a graph from running.
    """
    from perception.runtime.diagnosis import diagnose

    findings = diagnose()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            print(f"{finding.verdict:<5} {finding.subject}: {finding.text}{remedy}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)
