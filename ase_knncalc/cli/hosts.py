"""``knncalc extopt``, ``serve`` and ``drive``: for programs that ask for energies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ase_knncalc.cli.options import BaselineOption, JsonOption, ModelOption
from ase_knncalc.cli.printing import print_json
from ase_knncalc.settings import DEFAULT_MODEL

OnNoveltyOption = Annotated[
    str, typer.Option(help="Beyond a threshold: raise (the host's run ends), warn or ignore.")
]
StdOption = Annotated[
    Optional[float],  # noqa: UP045 - typer reads it at run time
    typer.Option(help="Threshold of energy_std, eV."),
]


def _calculator(model: str, baseline: str, on_novelty: str, std: float | None, **more: Any) -> Any:
    from ase_knncalc.calculator import KNNCalculator

    return KNNCalculator(
        model,
        baseline=baseline,
        on_novelty=on_novelty,  # type: ignore[arg-type]  # it checks
        std_threshold=std,
        **more,
    )


def extopt(
    request: Annotated[Path, typer.Argument(help="What ORCA wrote, <job>_EXT.extinp.tmp.")],
    model: ModelOption = DEFAULT_MODEL,
    baseline: BaselineOption = "auto",
    server: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Socket of `knncalc serve`, whose model answers."),
    ] = None,
    on_novelty: OnNoveltyOption = "warn",
    std_threshold: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give ORCA an energy and a gradient (! ExtOpt, ProgExt).

    Example: knncalc extopt job_EXT.extinp.tmp -m saw-wb97xd-md
    """
    if server is not None:
        from ase_knncalc.hosts.serving import ask

        found = ask(server, request)
    else:
        from ase_knncalc.hosts.extopt import answer

        found = answer(request, _calculator(model, baseline, on_novelty, std_threshold))
    if as_json:
        print_json(found)
    else:
        print(
            f"{found['energy']:.6f} eV ± {found['energy_std']:.4f}, novelty {found['novelty']:.2f}"
        )


def serve(
    socket: Annotated[Path, typer.Argument(help="Where to listen: a Unix socket to make.")],
    model: ModelOption = DEFAULT_MODEL,
    baseline: BaselineOption = "auto",
    on_novelty: OnNoveltyOption = "warn",
    std_threshold: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a model in memory for `knncalc extopt --server`.

    Example: knncalc serve /tmp/knncalc.sock -m saw-wb97xd-md
    """
    from ase_knncalc.hosts.serving import serve as listen

    _served(
        listen(socket, _calculator(model, baseline, on_novelty, std_threshold, warm_start=True)),
        as_json,
    )


def drive(
    structure: Annotated[Path, typer.Argument(help="The host's structure, in any format.")],
    model: ModelOption = DEFAULT_MODEL,
    baseline: BaselineOption = "auto",
    unix: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the host's Unix socket (/tmp/ipi_NAME)."),
    ] = None,
    host: Annotated[str, typer.Option(help="Where the host listens.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the host listens.")] = 31415,
    charge: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Total charge (default: the structure's own)."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a host.")] = 60.0,
    keep: Annotated[bool, typer.Option(help="Wait for the next host when one has gone.")] = False,
    on_novelty: OnNoveltyOption = "warn",
    std_threshold: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute for i-PI, or any program that has its server (ASE's SocketIOCalculator).

    Example: knncalc drive start.xyz -m saw-wb97xd-md --unix water
    """
    from ase_knncalc.data import read_structures
    from ase_knncalc.errors import DataError
    from ase_knncalc.hosts.serving import drive as connect

    frames = read_structures([structure])
    if len(frames) != 1:
        raise DataError(f"{structure} holds {len(frames)} structures; expected one")
    calculator = _calculator(
        model, baseline, on_novelty, std_threshold, charge=charge, warm_start=True
    )
    where: dict[str, Any] = {"unixsocket": unix, "host": host, "port": port}
    _served(connect(frames[0], calculator, wait=wait, keep=keep, **where), as_json)


def _served(number: int, as_json: bool) -> None:
    if as_json:
        print_json({"served": number})
    else:
        print(f"served: {number}")
