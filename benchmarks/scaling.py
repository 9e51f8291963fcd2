"""Scenario `scaling`: what grows with what.

- The coordinator's CPU a key, for 1, 4 and 16 partitions and 1 to 8 workers: it should not grow
  with either, since it is what limits one machine.
- Time and memory for a tenth, the whole and five times the number of keys: time should grow in
  proportion, memory not at all.

The coordinator's CPU includes its start, about 0.3 s, which is shown apart as that of a copy of one
key. One round each, as these are many and long.
"""

from __future__ import annotations

from typing import Final

from benchmarks.contenders import Round, as_data, rumpx, turns
from benchmarks.measure import MEGA, Chart, Options, Report, ask, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, fill

_PARTITIONS: Final = (1, 4, 16)
_WORKERS: Final = (1, 2, 4, 8)
_SIZES: Final = (0.1, 1, 5)


def run(options: Options) -> Report:
    """As `loopback.run`."""
    rows: list[tuple[str, ...]] = []
    data = {}
    sized: list[Round] = []
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        start = _start(source, target)
        fill(source.servers[0], options.keys, SEED)
        contenders = {
            f"{partitions} partitions, {workers} workers": rumpx(
                *("--no-size-check", "--workers", str(workers), "--partitions", str(partitions))
            )
            for partitions in _PARTITIONS
            for workers in _WORKERS
        }
        for name, rounds in turns(contenders, source, target, 1).items():
            rows.append(_row(name, options.keys, rounds[0], start))
            data[name] = as_data({name: rounds})[name]
        for size in _SIZES:
            keys = int(options.keys * size)
            source.flush()
            fill(source.servers[0], keys, SEED)
            name = f"{keys:,} keys, {options.workers} workers"
            copy = rumpx("--no-size-check", "--workers", str(options.workers))
            made = turns({name: copy}, source, target, 1)
            rows.append(_row(name, keys, made[name][0], start))
            data[name] = as_data(made)[name]
            sized += made[name]
    memory = dict(zip(_SIZES, (made.cost.peak_memory for made in sized), strict=True))
    return Report(
        title=f"rumpx, {version}; its start takes {start:.2f} s of the coordinator's CPU",
        columns=("copy", "s", "s/M keys", "coordinator us/key", "without start", "peak MB"),
        rows=rows,
        ratios={
            f"memory for {size:g} x the keys / 1 x": memory[size] / memory[1] for size in _SIZES
        },
        chart=Chart(
            "s for a million keys",
            [f"{options.keys * size:,.0f} keys" for size in _SIZES],
            {
                "": [
                    made.seconds / (options.keys * size) * MEGA
                    for size, made in zip(_SIZES, sized, strict=True)
                ]
            },
        ),
        data={"server": version, "rounds": data, "start_cpu": start},
    )


def _start(source: Side, target: Side) -> float:
    """CPU seconds of a coordinator that copies one key."""
    ask(source.servers[0], "SET", "key", "value")
    made = turns({"start": rumpx("--no-size-check")}, source, target, 3)
    source.flush()
    return min(one.cost.cpu_main for one in made["start"])


def _row(name: str, keys: int, made: Round, start: float) -> tuple[str, ...]:
    cost = made.cost
    return (
        name,
        f"{made.seconds:.2f}",
        f"{made.seconds / keys * MEGA:.2f}",
        f"{cost.cpu_main / keys * MEGA:.2f}",
        f"{(cost.cpu_main - start) / keys * MEGA:.2f}",
        f"{cost.peak_memory / MEGA:.0f}",
    )
