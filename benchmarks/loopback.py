"""Scenario `loopback`: many small mixed keys between two servers on this machine.

There is no distance and no disk, so the copier's own cost shows: on enough cores the servers are
the limit, on few the copier takes from them.
"""

from __future__ import annotations

from benchmarks.contenders import (
    RUMPX_GROUP,
    RUMPX_PIPELINE,
    against,
    as_data,
    cells,
    columns,
    floor,
    others_on_path,
    rival,
    rumpx,
    turns,
)
from benchmarks.measure import Chart, Options, Report, server_facts
from benchmarks.servers import standalone
from rumpx.demo import SEED, fill


def run(options: Options) -> Report:
    """Fill a server, let the contenders copy it in turns, compare them.

    Raises:
        Failed: a contender failed or copied a wrong number of keys, or the servers are too old.
    """
    workers = options.workers
    plain = _name(workers)
    contenders = {
        _name(number): rumpx("--no-size-check", "--workers", str(number))
        for number in sorted({1, 2, 4, 8, workers})
    } | {
        f"{plain}, sizes": rumpx("--workers", str(workers)),
        f"{plain}, pipelines of 1000": rumpx(
            "--no-size-check", "--workers", str(workers), "--batch-keys", "1000"
        ),
        "floor": floor(workers),
        "floor, as rumpx asks": floor(workers, RUMPX_PIPELINE, RUMPX_GROUP),
        "redis-py": rival("redis-py"),
        "MIGRATE": rival("migrate"),
        "REPLICAOF": rival("replicaof"),
        **others_on_path(),
    }
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        made = turns(contenders, source, target, options.rounds)
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, median of {options.rounds}; "
        "rumpx without its size check unless it says “sizes”",
        columns=("contender", *columns("x floor", "x redis-py")),
        rows=[
            (name, *cells(rounds, options.keys, made["floor"], made["redis-py"]))
            for name, rounds in made.items()
        ],
        ratios={
            "rumpx / floor": against(made[plain], made["floor"]),
            "rumpx / floor, as rumpx asks": against(made[plain], made["floor, as rumpx asks"]),
            "rumpx with sizes / without": against(made[f"{plain}, sizes"], made[plain]),
            "rumpx / redis-py": against(made[plain], made["redis-py"]),
            "rumpx / MIGRATE": against(made[plain], made["MIGRATE"]),
            "rumpx / REPLICAOF": against(made[plain], made["REPLICAOF"]),
        },
        chart=Chart(
            "times the speed of the floor",
            list(made),
            {"": [against(rounds, made["floor"]) for rounds in made.values()]},
        ),
        data={"server": version, "rounds": as_data(made)},
    )


def _name(workers: int) -> str:
    return f"rumpx, {workers} worker{'s' * (workers > 1)}"
